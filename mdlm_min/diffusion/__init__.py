"""The method: mask rates, masks, losses, the likelihood bound."""

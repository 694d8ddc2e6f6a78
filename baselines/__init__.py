"""What the method is compared with. One file per baseline. Baselines import the library; the library never imports them."""

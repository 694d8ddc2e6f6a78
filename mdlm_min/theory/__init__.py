"""The paper's formulas, and checks of them that do not use them."""

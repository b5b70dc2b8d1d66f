"""What all floors share and that imports from none of them."""

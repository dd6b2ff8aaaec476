"""A picture file of any format becomes sRGB at 8 bits, as a viewer shows it."""

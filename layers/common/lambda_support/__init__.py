"""What the functions share and no caller installs; part of the layer, not of the wheel."""

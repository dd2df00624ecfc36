"""Sources of images, their decoding, their labels."""

"""Image and mask files, and the objects of images, as arrays."""

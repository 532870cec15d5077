"""Processes that use the index of images, what befalls them, and a reading of what they leave."""

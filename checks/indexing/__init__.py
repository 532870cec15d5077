"""Processes that use the index of images, what befalls them, and an independent reading of what they leave."""

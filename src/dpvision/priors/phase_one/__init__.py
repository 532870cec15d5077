"""Phase I of DP-RandP: a network's body learns from public images, and is kept in a file as a prior.

In this order: two_views (what is compared), contrastive (how it learns), prior_file (what is kept), places
(where).
"""

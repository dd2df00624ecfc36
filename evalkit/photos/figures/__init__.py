"""Figures of the Ablation-CAM paper (Desai and Ramaswamy, WACV 2020) for any model and photograph.

One module for each figure: `units` (its figure 1), `unit` (2), `methods` (3), `saturation` (4), `explanation` (5).
"""

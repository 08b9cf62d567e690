"""Staged training of FocusNetv2: data, losses, stages, trainer and the head-and-neck phantom."""

"""FocusNetv2 for organs at risk of the head and neck: geometry, networks, inference and evaluation.

Research use only. Not a medical device. Every contour must be reviewed and approved by a qualified person before any
use.
"""

__version__ = "0.1.0"

DISCLAIMER = (
    "Research use only. Not a medical device. "
    "Every contour must be reviewed and approved by a qualified person before any use."
)

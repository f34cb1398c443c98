"""More texts to learn from than were recorded, one file for each way to make them.

What is made teaches and never judges: made texts go into no select, calibration or test set.
"""

from stillhouse.distill.lazy import modules_of

__getattr__ = modules_of(__name__)

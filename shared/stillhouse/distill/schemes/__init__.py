"""Who teaches whom, one file for each scheme: peers, earlier selves, deeper layers, assistants, many teachers at once.

All take a `Lesson`: texts by place, their answers, and how to train. What a module says of the texts at some places is
the caller's function, so any torch module can learn so.
"""

from stillhouse.distill.lazy import modules_of

__getattr__ = modules_of(__name__)

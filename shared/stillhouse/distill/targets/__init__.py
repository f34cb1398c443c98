"""From a trained student to what runs elsewhere: LiteRT, ExecuTorch, Core ML and browsers, compared with torch."""

from stillhouse.distill.lazy import modules_of

__getattr__ = modules_of(__name__)

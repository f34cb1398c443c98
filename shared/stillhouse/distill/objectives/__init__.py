"""What a generating student minimises, one file for each objective. All on logits, in float32 nats per token.

The names follow the papers: `p` is the teacher's next-token distribution, `q` the student's.
"""

from stillhouse.distill.lazy import modules_of

__getattr__ = modules_of(__name__)

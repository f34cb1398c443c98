"""What a generating student minimises, one file for each objective. All on logits, in float32 nats per token.

The names follow the papers: `p` is the teacher's next-token distribution, `q` the student's.
"""

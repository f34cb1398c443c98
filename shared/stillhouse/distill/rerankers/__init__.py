"""Rerankers: cross-encoders and bi-encoders that learn a teacher's scores of lists of documents.

One file an objective: `score_mse`, `margin_mse`, `listwise_kl` and `lambda_loss`, each of which `objective` blends with
`relevance`, what people judged. All take scores [lists, documents] and, where lists differ in length, a mask.
"""

from stillhouse.distill.lazy import modules_of

__getattr__ = modules_of(__name__)

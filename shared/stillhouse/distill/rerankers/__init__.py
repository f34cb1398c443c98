"""Rerankers: cross-encoders and bi-encoders that learn a teacher's scores of lists of documents.

One file an objective: `score_mse`, `margin_mse`, `listwise_kl` and `lambda_loss`, each of which `objective` blends with
`relevance`, what people judged. All take scores [lists, documents] and, where lists differ in length, a mask.

sentence-transformers has MarginMSE, ListNet and LambdaLoss too, behind `CrossEncoderTrainer`. They are not used: its
losses hand texts to a `CrossEncoder` and score nothing else, while a student's score here is the encoder's and that of
lexical features, which depend on the whole list; the states below the layers that learn are computed once, for which
a loss must not begin with texts; a list has a weight, relevance and teacher are blended in one loss, and an objective
serves bi-encoders as well; and a run that was stopped goes on to the same weights, to the bit. Tests compare the
objectives with the values of its losses.
"""

from stillhouse.distill.lazy import modules_of

__getattr__ = modules_of(__name__)

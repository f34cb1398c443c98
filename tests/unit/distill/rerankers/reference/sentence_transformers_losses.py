"""What sentence-transformers' losses give for some scores: `python sentence_transformers_losses.py` writes the JSON.

Run in an environment with sentence-transformers (6.2.0 wrote what is committed), which is no dependency of this
project. Its losses ask a `CrossEncoder` about texts; here the model looks scores up, so that losses alone are compared.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses
from torch import nn

LISTS, DOCUMENTS = 4, 6


class Given(CrossEncoder):
    """A cross-encoder whose score of a document is the number that the document is."""

    num_labels = 1
    device = torch.device("cpu")

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def preprocess(self, pairs: Any, **kwargs: Any) -> Any:
        """The scores."""
        return {"scores": torch.tensor([float(document) for _, document in pairs])}

    def forward(self, inputs: Any, **kwargs: Any) -> Any:
        """As they are."""
        return inputs


def main() -> None:
    """Write the values beside this file."""
    torch.manual_seed(0)
    student, teacher = torch.randn(LISTS, DOCUMENTS), 3.0 * torch.randn(LISTS, DOCUMENTS) + 1.0
    # What the objectives do with a teacher's scores before they compare: standardised, or as grades from 0 to 3.
    standard = (teacher - teacher.mean(dim=1, keepdim=True)) / teacher.std(dim=1, keepdim=True, unbiased=False)
    lowest, highest = teacher.amin(dim=1, keepdim=True), teacher.amax(dim=1, keepdim=True)
    grades = 3.0 * (teacher - lowest) / (highest - lowest)
    model, queries = Given(), ["q"] * LISTS
    texts = [[repr(score) for score in row] for row in student.tolist()]
    columns = [list(column) for column in zip(*texts, strict=True)]
    rank = losses.LambdaRankScheme()
    found = {
        # The first document of each list against the others.
        "margin_mse": losses.MarginMSELoss(model)([queries, *columns], standard),
        "list_net": losses.ListNetLoss(model)([queries, texts], list(standard)),
        # A mean over the pairs of all lists.
        "lambda_rank": losses.LambdaLoss(model, weighting_scheme=rank)([queries, texts], list(grades)),
        "mse": losses.MSELoss(model)(
            [queries * DOCUMENTS, [one for column in columns for one in column]], standard.T.flatten()
        ),
    }
    said = {
        "sentence-transformers": version("sentence-transformers"),
        "student": student.tolist(),
        "teacher": teacher.tolist(),
        "losses": {name: value.item() for name, value in found.items()},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""The `stillhouse` command. Each group of commands has a file of its own; what they need is imported when they run."""

from __future__ import annotations

import typer

from stillhouse.cli import (
    advise,
    analyze,
    compare,
    demo,
    design,
    dlq,
    doctor,
    documents,
    environments,
    erase,
    export,
    gates,
    ledger,
    lifecycle,
    operating,
    requests,
    review,
    sweep,
    topics,
    watching,
)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main() -> None:
    """Entry point of the console script."""
    app()


@app.callback()
def _root() -> None:
    """Replaces expensive model calls by a cheap model that has been proven to give the same answers."""


for _panel, _commands in {
    "The platform on this machine": (
        demo.demo,
        demo.demo_llm,
        lifecycle.up,
        lifecycle.down,
        lifecycle.status,
        doctor.doctor,
    ),
    "Requests": (requests.request, requests.send),
    "Before money is spent": (advise.advise,),
    "Students": (analyze.analyze, design.design, export.export),
    "What happens": (watching.routes, watching.alerts),
    "Orders": (operating.train, sweep.sweep, erase.erase),
    "Documents": (documents.docs,),
}.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)
app.add_typer(ledger.app, name="ledger", rich_help_panel="What happens")
app.add_typer(operating.route, name="route", rich_help_panel="Orders")
app.add_typer(operating.teacher, name="teacher", rich_help_panel="Orders")
app.add_typer(compare.app, name="students", rich_help_panel="What happens")
app.add_typer(review.app, name="review", rich_help_panel="Orders")
app.add_typer(gates.app, name="gate", rich_help_panel="What happens")
app.add_typer(dlq.app, name="dlq", rich_help_panel="What happens")
app.add_typer(topics.app, name="topics", rich_help_panel="The platform on this machine")
app.add_typer(environments.app, name="env", rich_help_panel="The platform on this machine")

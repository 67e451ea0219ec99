"""6: what it costs to open a session, and how few chunks a subquery and a join leave to be read."""

from __future__ import annotations

from statements import questions
from statements.lake import Subject, forget_indexes
from statements.table import Row, show
from statements.timing import measured
from vlmlake.queries import Session

CHOSEN = "split = 'adversarial'"
"""The last third of the examples."""


def rows(subject: Subject) -> list[Row]:
    condition = questions.at(subject.layer_name)
    average = f"avg({questions.NORM}) FROM readout_states"
    chosen = f"IN (SELECT example FROM examples WHERE {CHOSEN})"
    asked = {
        f"example IN (SELECT ... WHERE {CHOSEN})": f"SELECT {average} WHERE {condition} AND example {chosen}",
        f"JOIN examples ... WHERE {CHOSEN}": f"SELECT gold, {average} JOIN examples USING (run, example) "
        f"WHERE {condition} AND {CHOSEN} GROUP BY gold",
    }
    opened = measured({"open": lambda: Session.at(subject.url).connection.close()}, subject.rounds)["open"][0]
    found = [show("6a", "opening a session", opened)]
    for part, (what, query) in zip(("6b", "6c"), asked.items(), strict=True):
        with Session.at(subject.url) as session:
            cost, _ = measured({what: lambda query=query, session=session: session.ask(query)}, subject.rounds)[what]
            forget_indexes()
            (scanned,) = session.ask(query).scans
        found.append(show(part, what, cost, f"{scanned.chunks:,} of {scanned.chunks_there:,} chunks"))
    return found

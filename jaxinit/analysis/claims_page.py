"""The page of claims: every statement that experiments judge, with its number and its verdict.

summaries of experiments, by name -> Page
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from jaxinit.analysis.claims import Claim, counted
from jaxinit.analysis.page import Block, Facts, Link, Page, Section
from jaxinit.analysis.study_page import claims_table

OTHER_PEOPLES = re.compile(r"D\d")  # ids of what others claim of starts of their own
NOTHING: Mapping[str, str] = MappingProxyType({})


def chosen(claims: Sequence[Claim], only: Sequence[str]) -> list[Claim]:
    """The claims of these ids, such as D3, or A10 for A10.uniform01 too; all of them for none."""
    return [claim for claim in claims if not only or any(is_of(claim["id"], id) for id in only)]


def is_of(claim: str, id: str) -> bool:
    """Whether a claim is the one of an id, or a part of it."""
    return id in (claim, claim.partition(".")[0], claim.rpartition(".")[2])


def is_named(source: str, only: Sequence[str]) -> bool:
    """Whether the source of an experiment names a claim of one of these ids."""
    return not only or any(re.search(rf"(?<!\w){re.escape(id)}(?!\w)", source) for id in only)


def claims_page(
    summaries: Mapping[str, Mapping[str, Any]],
    only: Sequence[str],
    missing: Sequence[str],
    pages: Mapping[str, str] = NOTHING,
) -> Page:
    """The claims of experiments; `missing` says of which there is no answer, and why, `pages` where
    those of the experiments are, by paths from this one's folder."""
    sections, judged = [], []
    for name, summary in summaries.items():
        claims = chosen(summary["claims"], only)
        if not claims:
            continue
        judged += claims
        about = summary["about"]
        command = f"jaxinit reproduce {name} --size {about['size']}"
        facts = {"measured": f"{about['date']}, {about['seconds']} s", "again": command}
        blocks: list[Block] = [claims_table(claims), Facts("", facts)]
        if name in pages:
            blocks.append(Link("Figures, rows and studies of this experiment", pages[name]))
        smaller = any(OTHER_PEOPLES.match(claim["id"]) for claim in claims)
        sections.append(Section(f"{name}{', not at the published scale' * smaller}", blocks))
    return Page(
        title="Claims" if not only else f"Claims: {', '.join(only)}",
        subtitle="each as its experiment measures it; an interval at 95 % holds the choice of "
        "rates that were searched for; nothing is at the published scale unless it says so",
        answer=counted(judged) if judged else "No claim was judged.",
        sections=sections,
        warnings=missing,
    )

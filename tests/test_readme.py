"""What the README says of other routers is what the bench wrote."""

from tests.documents import ROOT

FAULTS = {
    "answers 503": "busy 503",
    "is silent": "silence",
    "breaks off in mid-stream": "cut mid stream",
    "ends its stream too early": "clean end",
}
MEASURED = "**OpenAI API: requests that end right, /v1/chat/completions stream**"


def rows(page: str, after: str) -> list[list[str]]:
    """The cells of the first table behind `after`, without the line below its head."""
    lines = page[page.index(after) + len(after) :].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return [table[0], *table[2:]]


def in_short(cell: str) -> str:
    """A cell of the bench as the README has it."""
    right = cell.partition("/")[0]
    return f"{right}, unnoticed" if "CUT SHORT" in cell else right


def test_the_readme_quotes_the_faults_that_were_measured() -> None:
    said = rows((ROOT / "README.md").read_text(), "## Beside other routers")
    measured = rows((ROOT / "docs/peers.md").read_text(), MEASURED)
    by_fault = {row[0]: row[2:] for row in measured}  # nginx is no router of models
    assert [cell.split()[-1] for cell in said[0][2:]] == [
        cell.split()[-1] for cell in by_fault["fault"][1:]
    ]
    assert {row[0] for row in said[1:]} == set(FAULTS)
    for name, *cells in said[1:]:
        assert cells == [in_short(cell) for cell in by_fault[FAULTS[name]]]

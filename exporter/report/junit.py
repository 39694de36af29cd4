"""JUnit XML, which every CI shows: an artifact is a test suite, a golden text a test case."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

from goldfold.exporter.report.pages import ArtifactFigures, Report, TextFigures

_ILLEGAL = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot express even escaped."""

RUNS = "runs on its device in its precision"
"""The case of each artifact that passes where the very file ran."""
LENGTHS = "measured at its own length"
"""The case, skipped, of an artifact that takes longer texts than were measured."""


def junit(report: Report) -> str:
    """Returns the report as JUnit XML.

    The case `gate` of a suite holds what concerns no single text. `RUNS` is skipped with the reason
    where something stood in for the artifact; the suite's other cases are then the stand-in's.
    `LENGTHS` is there, and skipped, where an artifact takes longer texts than were measured. An
    artifact that is damaged, was not built or not measured is a suite with one case in error."""
    root = ElementTree.Element("testsuites", name="goldfold")
    for artifact in report.artifacts:
        root.append(_suite(artifact))
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in root)))
    ElementTree.indent(root, " ")
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _suite(artifact: ArtifactFigures) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", name=_clean(artifact.folder))
    if artifact.state in ("damaged", "unverified", "unbuilt"):
        case = _case(suite, artifact, "builds" if artifact.state == "unbuilt" else "opens")
        _say(case, "error", artifact.state, artifact.reasons)
    else:
        for text in artifact.texts:
            case = _case(suite, artifact, text.id)
            if text.faults:
                _say(case, "failure", text.faults[0], text.faults)
            ElementTree.SubElement(case, "system-out").text = _clean(_figures(text))
        case = _case(suite, artifact, "gate")
        # A failed artifact must show as failed, whatever its reasons concern.
        general = artifact.general or (artifact.reasons if artifact.state == "failed" else ())
        if general:
            _say(case, "failure", general[0], general)
        case = _case(suite, artifact, RUNS)
        if artifact.stand_in:
            stood = f"{artifact.not_run}; the other cases are of {artifact.stand_in}"
            ElementTree.SubElement(case, "skipped", message=_clean(stood))
        if artifact.unmeasured:
            case = _case(suite, artifact, LENGTHS)
            ElementTree.SubElement(case, "skipped", message=_clean(artifact.unmeasured))
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    suite.set("time", f"{artifact.golden_seconds or 0:.3f}")
    return suite


def _case(suite: ElementTree.Element, artifact: ArtifactFigures, name: str) -> ElementTree.Element:
    group = f"goldfold.{_clean(artifact.folder).replace('.', '-')}"
    return ElementTree.SubElement(suite, "testcase", classname=group, name=_clean(name), time="0")


def _say(case: ElementTree.Element, kind: str, message: str, lines: tuple[str, ...]) -> None:
    said = ElementTree.SubElement(case, kind, message=_clean(message), type=kind)
    said.text = _clean("\n".join(lines))


def _figures(text: TextFigures) -> str:
    ways = ("alone", "padded", "emulated_alone", "emulated_padded")
    found = [(way.replace("_", ", "), getattr(text, way)) for way in ways]
    said = ", ".join(
        f"{figure:.2e} ({way})"
        for way, figure in found
        if figure is not None and math.isfinite(figure)
    )
    return f"{text.tokens} tokens; 1-cos {said or 'not finite'}"


def _clean(text: str) -> str:
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text)

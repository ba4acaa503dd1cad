"""The page in a real browser: nothing a model writes runs or breaks it, and it fits a phone."""

import html
import html.parser
import http.server
import json
import re
import shutil
import subprocess
import threading

import pytest
from evaluation_folders import (
    change_summary,
    sample,
    write_evaluation,
    write_long_evaluations,
    write_pruning,
    write_round,
    write_rounds,
)
from PIL import Image
from run_folders import AFTER, BEFORE, row, write_rows

from megaprune.report import write_report

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on the path")

OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

HOSTILE = {
    "script": "<script>document.title='owned';document.body.id='owned'</script>",
    "image": "<img src=x onerror=\"document.title='owned'\"><svg onload=\"document.title='owned'\">",
    "closing": "</pre></section></div></details></body></html><h1 id='owned'>owned</h1>",
    "comment": "<!-- <style>body{display:none}</style> <plaintext> <textarea> <![CDATA[",
    "entities": "a & b &lt;script&gt; &amp; &#60;b&#62; \"double\" 'single' `back` ${x} $x",
    "bidi": "\u202egnitirw desrever\u202c \u2066isolate \u200b\u200d\ufeff zero width \u061c",
    "arabic": "مرحبا بالعالم، الجواب هو ٤",
    "controls": "nul \x00 escape \x1b[31m carriage\rreturn \u2028 line",
    "fetch": "<link rel=stylesheet href=http://127.0.0.1:PORT/a><img src=http://127.0.0.1:PORT/b>",
}
WIDE = "W" * 3000
LONG = "<b>" + "All work and no play. " * 5000 + "THE END"

PROBE = """
<script>
addEventListener("load", () => {
  const images = [...document.images];
  const found = {
    title: document.title,
    owned: document.getElementById("owned") !== null,
    scripts: document.scripts.length,
    images: images.length,
    decoded: images.filter(image => image.complete && image.naturalWidth > 0).length,
    width: innerWidth,
    scroll: document.documentElement.scrollWidth,
    cut: [...document.querySelectorAll(".wide")].filter(e => e.scrollWidth > e.clientWidth)
      .map(e => getComputedStyle(e).backgroundImage),
    columns: [...document.querySelectorAll(".stacked td")].filter(e => e.textContent)
      .map(e => getComputedStyle(e, "::before").content),
    headings: [...document.querySelectorAll("h2")].map(e => e.textContent),
    answers: [...document.querySelectorAll(".answers pre")].map(e => e.textContent),
    nested: document.querySelectorAll("pre :not(span)").length,
    requests: performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:")),
  };
  parent.postMessage(JSON.stringify(found), "*");
});
</script>
"""


def browse(tmp_path, url, *options, width=1280, height=1600):
    profile = tmp_path / f"profile-{len([*tmp_path.iterdir()])}"
    command = [
        BROWSER,
        *OPTIONS,
        f"--user-data-dir={profile}",
        f"--window-size={width},{height}",
        *options,
        url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def probe(tmp_path, page, width):
    """Open a copy that is measured, without the policy: escaping has to hold by itself.

    In a frame, as a window on a desktop has a least width.
    """
    text = page.read_text()
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)
    assert policy
    copy = tmp_path / "copy.html"
    copy.write_text(text.replace(policy[0], PROBE))
    frame = tmp_path / "frame.html"
    frame.write_text(
        '<script>onmessage = e => document.body.append(Object.assign(document.createElement("pre"), '
        '{id: "out", textContent: e.data}))</script>'
        f'<body><iframe src="copy.html" style="width:{width}px;height:900px;border:0"></iframe>'
    )
    options = ("--virtual-time-budget=5000", "--dump-dom")
    dom = browse(tmp_path, frame.as_uri(), *options, width=max(width, 500))
    found = re.search(r'<pre id="out">(.*?)</pre>', dom, re.DOTALL)
    assert found, dom[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.fixture
def server():
    """Whoever fetches something from it is found out."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], asked
        server.shutdown()


def everything(server):
    return "\n".join(text.replace("PORT", str(server[0])) for text in HOSTILE.values())


def responses(server):
    """(name, response) of five problems."""
    all_of_it = everything(server)
    texts = [LONG, all_of_it, WIDE, all_of_it, all_of_it]
    return [(f"{number} {HOSTILE['script']}", text) for number, text in enumerate(texts, start=1)]


def hostile_rows(server, step):
    """Answers of a run to them, all of whose texts are hostile."""
    texts = dict.fromkeys(("prompt", "gold", "extracted", "why", "data_source"), everything(server))
    return [
        row(step, name, 0, 100 + step * index, (index + step) % 3 != 0, response=text, **texts)
        for index, (name, text) in enumerate(responses(server))
    ]


def add_to_config(folder):
    with open(folder / "config.yaml", "a") as file:
        file.write(f"note: |\n  {HOSTILE['script']}{HOSTILE['closing']}\n")


def hostile_run(tmp_path, server, run):
    """A run whose model, data and settings write what a page must not obey."""
    for step in (0, 4):
        write_rows(run / f"validation/step_{step:06}.parquet", hostile_rows(server, step))
    add_to_config(run)
    with open(run / "metrics.jsonl", "a") as file:
        line = {"step": 5, HOSTILE["closing"]: 1, "seconds/" + HOSTILE["script"]: 1, WIDE: 1}
        file.write(json.dumps(line) + "\n")
    return write_report(run), "my-run", 13


def hostile_pruning(tmp_path, server, run):
    """Also what rounds.json says of models and of why it stopped."""
    folder = tmp_path / "pruned"
    rounds = [
        write_round(
            folder, number, limit, {step: hostile_rows(server, step) for step in (0, 4)}, chosen=4
        )
        | {"model": HOSTILE["closing"] + WIDE}
        for number, limit in ((1, 800), (2, 400))
    ]
    base = {"accuracy": 0.5, "length": 100.0}
    write_rounds(folder, [800, 400], base, rounds, stopped=everything(server), final=1)
    add_to_config(folder)
    return write_report(folder), "pruned", 4


def hostile_evaluations(tmp_path, server, run):
    """Also names of folders and sets, models, settings and an analysis."""
    name = "<img src=x onerror=alert(1)>"  # a set's own characters, as another program may use them
    paths = []
    texts = dict.fromkeys(("prompt", "gold", "extracted", "why", "data_source"), everything(server))
    for folder, factor in (("base", 0), ("_$<script>x='\"&amp;", 7), ("W" * 200, 3)):
        rows = [
            sample(
                name, problem, number, 100 + factor * index, (index + factor) % 3 != 0,
                response=text, **texts,
            )
            for index, (problem, text) in enumerate(responses(server))
            for number in (0, 1)
        ]  # fmt: skip
        paths.append(write_evaluation(tmp_path / folder, rows, config="model: x\n"))
        change_summary(
            paths[-1],
            lambda said: (
                said.update(model=everything(server) + WIDE),
                said["settings"].update({HOSTILE["closing"]: factor, "max_response_length": WIDE}),  # noqa: B023
            ),
        )
        add_to_config(paths[-1])
    return write_report(*paths, baseline=paths[0], out=tmp_path / "out"), "base · _$<scrip", 4


MAKERS = {"run": hostile_run, "pruning": hostile_pruning, "evaluations": hostile_evaluations}


@pytest.fixture(params=MAKERS)
def hostile(request, tmp_path, server, run):
    """A page with hostile texts everywhere, how its title begins, and how many figures it has."""
    return MAKERS[request.param](tmp_path, server, run)


@pytest.mark.parametrize("width", [1280, 390])
def test_hostile_text_does_not_run_and_does_not_break_the_page(hostile, tmp_path, width, server):
    page, title, figures = hostile
    found = probe(tmp_path, page, width)
    assert found["title"].startswith(title)
    assert found["title"].endswith(" · megaprune")
    assert not found["owned"]
    assert found["scripts"] == 1  # the probe
    assert found["nested"] == 0
    assert found["requests"] == []
    assert server[1] == []
    assert found["images"] == found["decoded"] == figures
    assert found["width"] == width
    assert found["scroll"] <= width
    assert width > 390 or found["cut"] == []
    assert found["headings"][-1] == "Configuration"
    answers = found["answers"]
    shown = {
        HOSTILE[name] for name in ("script", "image", "closing", "comment", "entities", "arabic")
    }
    assert any(all(text in answer for text in shown) for answer in answers)
    assert any("U+202Egnitirw" in answer and "nul U+0000" in answer for answer in answers)
    (cut,) = {answer for answer in answers if answer.startswith("<b>All work")}
    assert f"… {len(LONG) - 6000:,} characters left out …" in cut
    assert cut.endswith("THE END")
    assert len(cut) < 6100


def test_the_page_as_it_is(hostile, tmp_path, server):
    page, title, _ = hostile
    tags = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    parser.feed(page.read_text())
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object", "svg", "form"}
    assert "a" not in {tag for tag, _ in tags}  # only rounds have links, and these have no pages
    for _, attributes in tags:
        assert attributes.get("src", "data:").startswith("data:")
        assert not [
            name for name in attributes if name.startswith("on") or name in ("href", "style")
        ]
    dom = browse(tmp_path, page.as_uri(), "--dump-dom", width=390)
    assert f"<title>{html.escape(title, quote=False)}" in dom
    assert 'id="owned"' not in dom
    assert "<script" not in dom
    assert server[1] == []


@pytest.fixture(params=["run", "pruning", "evaluations"])
def page(request, run, tmp_path):
    if request.param == "run":
        return write_report(run)
    if request.param == "pruning":
        return write_report(write_pruning(tmp_path / "pruned", BEFORE, [AFTER, AFTER]))
    return write_report(*write_long_evaluations(tmp_path, n=4), out=tmp_path / "out")


@pytest.mark.parametrize("width", [390, 700])
def test_no_table_is_cut_without_a_hint(page, tmp_path, width):
    """On a phone no table is wider than the page, and each cell says its column; between a phone
    and a desk, a table that is has a shadow where it is cut."""
    found = probe(tmp_path, page, width)
    assert found["scroll"] <= width
    if width == 390:
        assert found["cut"] == []
        assert found["columns"]
        assert not {"none", "normal", '""'} & {*found["columns"]}
    assert all(image.count("linear-gradient") == 4 for image in found["cut"])


@pytest.mark.parametrize(("width", "height"), [(1280, 2000), (500, 6000)])
def test_it_is_drawn(page, tmp_path, width, height):
    shot = tmp_path / "shot.png"
    browse(tmp_path, page.as_uri(), f"--screenshot={shot}", width=width, height=height)
    image = Image.open(shot).convert("RGB")
    assert image.size == (width, height)
    colours = {colour for _, colour in image.getcolors(1 << 24)}
    assert (0, 114, 178) in colours or (0xD5, 0x5E, 0x00) in colours  # a figure's
    assert len(colours) > 200


def test_it_is_printed(page, tmp_path):
    out = tmp_path / "report.pdf"
    browse(tmp_path, page.as_uri(), f"--print-to-pdf={out}", "--no-pdf-header-footer")
    pages = len(re.findall(rb"/Type\s*/Page\b", out.read_bytes()))
    assert 2 <= pages <= 9

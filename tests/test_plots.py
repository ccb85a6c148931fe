"""Figures: the alt text holds the numbers, the marks frame the right cells, and no line relies on its colour."""

from __future__ import annotations

import base64
import html
import re
from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from matplotlib.patches import Rectangle
from nbclient import NotebookClient

from cl_tutor import plots
from cl_tutor.results import Results

R3 = [[0.9, 0.2, 0.1], [0.7, 0.8, 0.3], [0.5, 0.6, 0.95]]
XS, YS = np.linspace(-2, 3, 41), np.linspace(-2, 2, 31)
BOWL = lambda cx, cy: (XS[None] - cx) ** 2 + 3 * (YS[:, None] - cy) ** 2
TWO = {"task 1": BOWL(0, 0), "task 2": BOWL(1.5, 1)}
PATHS = {"naive": np.linspace([0, 0], [1.5, 1], 31), "EWC": np.linspace([0, 0], [0.6, 0.4], 21)}


def results(seed: int = 0, T: int = 4) -> Results:
    rng = np.random.default_rng(seed)
    return Results(rng.random((T, T)), rng.random(T))


def luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in mpl.colors.to_rgb(colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


FIGURES = {
    "matrix": lambda s: plots.matrix(results(s)),
    "matrix of 10": lambda s: plots.matrix(results(s, 10)),
    "curves": lambda s: plots.curves({"naive": [results(s), results(s + 1)], "EWC": results(s + 2)}, guess=0.4),
    "bars": lambda s: plots.bars({"naive": [results(s), results(s + 1)], "ER": [results(s + 2), results(s + 3)]}),
    "lines": lambda s: plots.lines({"error": ([1, 10, 100], [1 + s, 0.1, 0.01])}, "η", "error", logx=True, logy=True),
    "hist": lambda s: plots.hist({"cosine": np.random.default_rng(s).normal(size=99)}, "cosine"),
    "surface": lambda s: plots.surface(XS, YS, TWO, {"SGD": [[0, 0], [s + 0.5, 1]]}, {"θ₁*": (0, 0)}),
    "relief": lambda s: plots.relief(XS, YS, {"task 1": BOWL(s, 0), "task 2": BOWL(1.5, 1)}),
    "hover": lambda s: plots.hover({"EWC": ([1, 10], [0.5, 0.25 + s / 8])}, "λ", "ACC", logx=True),
    "animate": lambda s: plots.animate(XS, YS, TWO, {"SGD": [[0, 0], [s + 0.5, 1]]}, {"θ₁*": (0, 0)}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_one_small_png_whose_alt_text_changes_with_its_numbers(name):
    one, other = FIGURES[name](0), FIGURES[name](1)
    assert one.alt != other.alt and one.alt == FIGURES[name](0).alt
    data, metadata = one._repr_mimebundle_()
    png = base64.b64decode(re.search(r'src="data:image/png;base64,([^"]+)"', data["text/html"])[1])
    width = int.from_bytes(png[16:20], "big")
    assert png.startswith(b"\x89PNG") and len(png) <= 60_000 and 640 <= width <= 760
    assert data["text/plain"] == repr(one) == f"Figure: {one.alt}"
    assert html.unescape(re.search(r'<img alt="([^"]*)"', data["text/html"])[1]) == one.alt
    if one.still is None:
        assert base64.b64decode(data["image/png"]) == png and metadata["image/png"]["alt"] == one.alt


def test_drawing_leaves_matplotlib_as_it_was():
    before = dict(mpl.rcParams)
    for draw in FIGURES.values():
        draw(0).png()
    assert dict(mpl.rcParams) == before and plt.get_fignums() == []


def test_the_alt_text_of_the_matrix_holds_its_numbers():
    alt = plots.matrix(Results(R3, [0.1, 0.15, 0.2])).alt
    for number in ["ACC 0.683", "forgetting 0.300", "BWT −0.300", "FWT 0.075", "0.10, 0.15, 0.20", "0.50, 0.60, 0.95"]:
        assert number in alt
    assert "undefined" in plots.matrix(Results([[0.9]], [0.1])).alt


@pytest.mark.parametrize("T", [2, 3, 5])
def test_the_marks_frame_the_cells_that_enter_bwt_and_fwt(T):
    r = results(T=T)
    ax = plots.matrix(r).figure.axes[0]
    shown = {(-t.get_position()[1], t.get_position()[0]): float(t.get_text()) for t in ax.texts if t.get_text()}
    assert all(abs(shown[(-i - 1, j)] - r.R[i, j]) <= 0.005 for i in range(T) for j in range(T))
    assert all(abs(shown[(0, j)] - r.b[j]) <= 0.005 for j in range(T))

    def framed(name):
        """The cells under the frames, row -1 standing for b."""
        boxes = [p for p in ax.patches if isinstance(p, Rectangle) and (p.get_gid() or "").startswith(name)]
        centre = lambda p: (p.get_y() + p.get_height() / 2 - 1, p.get_x() + p.get_width() / 2)
        return {(round(i), round(j)) for i, j in map(centre, boxes)}

    value = lambda cell: r.b[cell[1]] if cell[0] < 0 else r.R[cell]
    bwt, fwt = framed("BWT"), framed("FWT")
    low = {c for c in bwt if c[0] == T - 1}
    assert bwt == {(T - 1, j) for j in range(T - 1)} | {(j, j) for j in range(T - 1)}
    assert np.isclose((sum(map(value, low)) - sum(map(value, bwt - low))) / (T - 1), r.bwt)
    top = {c for c in fwt if c[0] == -1}
    assert np.isclose((sum(map(value, fwt - top)) - sum(map(value, top))) / (T - 1), r.fwt)
    looks = {n: p.get_linestyle() for n in ("BWT", "FWT") for p in ax.patches if (p.get_gid() or "").startswith(n)}
    assert looks["BWT"] != looks["FWT"]  # and so they differ in grey


def test_lines_differ_in_colour_and_dashes_and_marker():
    for a, b in combinations(plots.LOOKS, 2):
        assert a[0] != b[0] and a[1] != b[1] and a[2] != b[2] and a[3] != b[3] and a[4] != b[4]
    assert all(luminance(colour) < 0.5 for colour, *_ in plots.LOOKS)  # each can be seen on white paper
    first, second = (luminance(c) for c, *_ in plots.CONTOURS)
    assert abs(first - second) > 0.05 or plots.CONTOURS[0][1] != plots.CONTOURS[1][1]


def test_a_method_keeps_its_look_and_no_two_names_share_one():
    looks = plots.styles(["naive", "EWC", "ER", "joint"])
    assert looks["EWC"] == plots.styles(["EWC"])["EWC"] == plots.styles(["mine", "ewc"])["ewc"]
    for names in (
        ["DER", "MAS", "Online EWC", "DER++"],
        [f"task {i}" for i in range(8)],
        ["x", "naive", "y", "GEM", "LwF"],
    ):
        drawn = plots.styles(names)
        assert all(a != b for a, b in combinations(drawn.values(), 2)) and list(drawn) == names
    with pytest.raises(ValueError, match="at most 8"):
        plots.styles([str(i) for i in range(9)])


def test_curves_show_mean_band_and_guess():
    runs = {"naive": [results(s) for s in range(3)], "EWC": [results(s + 9) for s in range(3)], "joint": results(20)}
    picture = plots.curves(runs, task=1, guess=[0.9, 0.8, 0.7, 0.6])
    naive, *_, guess = picture.figure.axes[0].lines
    column = np.array([r.R[:, 1] for r in runs["naive"]])
    assert np.allclose(naive.get_ydata(), column.mean(0)) and np.allclose(guess.get_ydata(), [0.9, 0.8, 0.7, 0.6])
    band = picture.figure.axes[0].collections[0].get_paths()[0].vertices
    assert np.isclose(band[:, 1].max(), (column.mean(0) + column.std(0, ddof=1)).max())
    assert len(picture.figure.axes[0].collections) == 2  # one seed has no band
    assert f"{column.mean(0)[-1]:.3f} ± {column.std(0, ddof=1)[-1]:.3f}" in picture.alt and "0.600" in picture.alt
    seen = plots.curves({"naive": results()}, task=None).figure.axes[0].lines[0].get_ydata()
    assert np.allclose(seen, [results().R[i, : i + 1].mean() for i in range(4)])


def test_bars_show_every_seed():
    runs = {"naive": [results(s) for s in range(3)], "ER": [results(s + 9) for s in range(3)]}
    left, right = plots.bars(runs).figure.axes
    dots = np.concatenate(
        [line.get_xdata() for line in left.lines if line.get_marker() in "vs" and len(line.get_xdata()) == 3]
    )
    assert sorted(dots) == sorted(r.acc for rs in runs.values() for r in rs)
    assert np.allclose(
        [p.get_width() for p in right.patches], [np.mean([r.forgetting for r in rs]) for rs in runs.values()]
    )


def test_what_is_counted_has_whole_numbers_on_its_axis():
    ticks = lambda x: plots.lines({"a": (x, [0.5, 0.25, 0.125])}, "task", "ACC").figure.axes[0].get_xticks()
    assert (ticks([1, 2, 3]) % 1 == 0).all() and (ticks([0, 0.5, 1]) % 1 != 0).any()


def test_the_histogram_says_the_share_below_zero():
    assert "25 % below zero" in plots.hist({"cosine": [-1, 1, 2, 3]}, "cosine").alt


def test_the_surface_says_where_the_minimum_and_the_ends_are():
    alt = plots.surface(XS, YS, BOWL(0.5, 1), {"SGD": [[0, 0], [1.25, -0.5]]}).alt
    assert "(0.50, 1.07)" in alt and "(1.25, −0.50)" in alt  # the grid holds no 1.00


def test_the_labels_of_a_surface_lie_inside_its_picture():
    """One scale on both axes moves them after the layout; a wide legend once cut θ₂ in half."""
    xs, ys = np.linspace(-1, 9, 61), np.linspace(-6, 4, 61)
    paths = {f"diagonal, c = 0.0{k}": [[1, 1], [2, 2]] for k in (1, 5)}
    picture = plots.surface(xs, ys, xs[None] ** 2 + ys[:, None] ** 2, paths, {"θ*": (4.6, -1.9)})
    picture.png()
    (ax,) = picture.figure.axes
    boxes = [label.get_window_extent() for label in (ax.xaxis.label, ax.yaxis.label)]
    assert min(min(box.x0, box.y0) for box in boxes) > 0


def test_the_animation_has_frames_buttons_and_a_slider_and_no_contour_trace():
    picture = plots.animate(XS, YS, TWO, PATHS, {"θ₁*": (0, 0)}, frames=20)
    figure = picture.figure
    assert {trace.type for trace in figure.data} == {"scatter"}  # plotly.js deletes contour traces when frames play
    contours = [trace for trace in figure.data if trace.name in TWO]
    assert len(contours) == 2 and all(None in trace.x for trace in contours)
    play, pause = figure.layout.updatemenus[0].buttons
    for control in (play, pause, *figure.layout.sliders[0].steps):
        how = control.args[1]
        assert control.method == "animate" and how["mode"] == "immediate" and how["frame"]["redraw"] is False
    assert play.args[0] is None and list(pause.args[0]) == [None]
    assert [s.args[0][0] for s in figure.layout.sliders[0].steps] == [f.name for f in figure.frames] and len(
        figure.frames
    ) == 20
    for frame in figure.frames:  # a frame moves the paths and nothing else
        assert [figure.data[i].name for i in frame.traces] == list(PATHS) == [t.name for t in frame.data]
    for trace in figure.frames[-1].data:
        assert np.allclose([trace.x[-1], trace.y[-1]], PATHS[trace.name][-1])
    assert "application/vnd.plotly.v1+json" in picture._repr_mimebundle_()[0] and len(figure.to_json()) < 200_000


def test_the_landscape_has_the_heights_of_the_map_and_is_cut_off_at_its_top():
    figure = plots.relief(XS, YS, TWO, top=5.0).figure
    for trace, z in zip(figure.data, TWO.values(), strict=True):
        assert np.allclose(np.array(trace.z), z, atol=1e-4) and trace.cmax == 5.0
    assert figure.layout.scene.zaxis.range[1] == 5.0
    assert [t.name for t in figure.data] == list(TWO) and len(figure.to_json()) < 60_000


def test_what_is_pointed_at_says_its_numbers_and_its_note():
    series = {"EWC": ([1, 10], [0.5, 0.25]), "naive": ([0], [0.125])}
    figure = plots.hover(series, "λ", "ACC", "Two methods", logx=True, notes={"EWC": ["seed 0", "seed 1"]}).figure
    one, other = figure.data
    assert list(one.x) == [1, 10] and list(one.y) == [0.5, 0.25] and list(one.customdata) == ["seed 0", "seed 1"]
    assert "%{customdata}" in one.hovertemplate and one.hovertemplate.startswith("λ %{x")
    assert figure.layout.xaxis.type == "log" and figure.layout.yaxis.type == "linear"
    assert (one.line.color, one.line.dash, one.marker.symbol) != (
        other.line.color,
        other.line.dash,
        other.marker.symbol,
    )
    assert one.line.color == plots.styles(series)["EWC"]["color"]


def test_contour_lines_lie_on_their_level():
    x, y = plots._polyline(XS, YS, BOWL(0, 0))
    heights = [a**2 + 3 * b**2 for a, b in zip(x, y) if a is not None]
    assert max(np.abs(plots._levels(BOWL(0, 0))[:, None] - heights).min(0)) < 0.05


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: plots.Picture(plots.Figure(), " "), "alt text"),
        (lambda: plots.Picture({"data": []}, "a plotly figure"), "still"),
        (lambda: plots.curves({"naive": results()}, task=4), "0 ... 3"),
        (lambda: plots.curves({"naive": results()}, guess=[0.5, 0.5]), "guess"),
        (lambda: plots.curves({"a": results(), "b": results(T=3)}), "one number of tasks"),
        (lambda: plots.bars({"a": []}), "at least one seed"),
        (lambda: plots.lines({"a": ([1, 2], [1])}, "x", "y"), "'a'"),
        (lambda: plots.surface(XS, YS, np.ones((41, 31))), r"\(31, 41\)"),
        (lambda: plots.surface(XS, YS, TWO, {"SGD": [1, 2]}), "'SGD'"),
        (lambda: plots.animate(XS, YS, TWO, {}), "at least one path"),
        (lambda: plots.hover({"a": ([1, 2], [1, 2])}, "x", "y", notes={"a": ["one"]}), "2 marks and 1 notes"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, says):
    with pytest.raises(ValueError, match=says):
        call()


CELLS = {
    "live": 'from cl_tutor.plots import Live, lines, show\nlive = Live("Forgetting", ylim=(0, 1))\n'
    'for n in range(1, 60):\n    live.update({"task 1": [1 - i / 64 for i in range(n)]})',
    "show": 'show(lines({"a": ([0, 1], [0, 1])}, "x", "y"))\nprint("then")',
    "own": "import matplotlib.pyplot as plt\nfig, ax = plt.subplots(); ax.plot([1, 2])\nshow(fig, 'two points')",
    "again": 'live.update({"task 1": [1, 0.5]}); live.update({"task 1": [1, 0.25]})',
    "broken": 'live.update({"task 1": [0.125]}, x=[7]); live.update({"task 1": [0.5, 0.0625]}, x=[7, 8]); 1 / 0',
}


@pytest.mark.filterwarnings("ignore")
def test_in_a_notebook_a_figure_is_one_output_and_a_live_plot_ends_with_its_last_frame():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS.values()])
    client = NotebookClient(notebook, timeout=60, allow_errors=True, kernel_name="python3")
    says = {}
    with client.setup_kernel():
        for i, (name, cell) in enumerate(zip(CELLS, client.nb.cells)):
            client.execute_cell(cell, i)
            says[name] = client.nb.cells[0].outputs[0].data["text/plain"]
    live, shown, own, again, broken = (cell.outputs for cell in client.nb.cells)
    assert len(live) == 1 and "to 0.094 at 58" in says["live"]
    assert base64.b64decode(live[0].data["image/png"]).startswith(b"\x89PNG")
    assert live[0].metadata["image/png"]["alt"] in live[0].data["text/plain"]
    assert [o.output_type for o in shown] == ["display_data", "stream"]
    assert len(own) == 1 and own[0].data["text/plain"] == "Figure: two points"  # and not again as the cell ends
    # later cells refresh the same output, and a cell that breaks off draws its last frame too
    assert "to 0.250 at 1" in says["again"] and "to 0.062 at 8" in says["broken"]
    assert not again and [o.output_type for o in broken] == ["error"]


def test_images_draw_every_image_once_and_say_so():
    rng = np.random.default_rng(0)
    picture = plots.images({"task 1": rng.random((3, 1, 8, 8)), "task 2": rng.random((3, 8, 8))}, "Two tasks")
    assert [len(ax.images) for ax in picture.figure.axes] == [1] * 6
    assert "2 rows of 3 images of 8 by 8 pixels: task 1, task 2" in picture.alt
    with pytest.raises(ValueError, match=r"the rows hold \[2, 3\]"):
        plots.images({"a": np.zeros((3, 8, 8)), "b": np.zeros((2, 8, 8))})

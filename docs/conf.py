"""Sphinx's settings for the course's site; `cl-tutor site` copies this folder, adds the lessons and calls Sphinx."""

project = "Why networks forget"
author = "The cl_tutor authors"
extensions = ["myst_nb"]
html_theme = "sphinx_book_theme"
html_title = "Why networks forget"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "navbar_persistent": [],
}

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # what had to run has run
nb_render_markdown_format = "myst"  # hints and questions hold mathematics
nb_mime_priority_overrides = [("html", "text/html", 0), ("html", "application/vnd.jupyter.widget-view+json", None)]
nb_ipywidgets_js = {}  # the islands run by themselves
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header", "toc.not_included", "myst.xref_missing"]
mathjax_path = "mathjax.js"


def setup(app):
    """plotly.js weighs 5 MB: only the pages that draw with it load it."""

    def scripts(app, page, template, context, doctree):
        if "Plotly.newPlot" in context.get("body", ""):
            app.add_js_file("plotly.js", loading_method="", priority=100)

    app.connect("html-page-context", scripts)

// The curves of one or several runs: they grow, and a zoom fetches finer points.
import { Chart } from "./chart.js";
import { anchor, ask, make, section } from "./dom.js";

const PALETTES = [
  "1f77b4 ff7f0e 2ca02c d62728 9467bd 8c564b e377c2 7f7f7f bcbd22 17becf",
  "1f77b4 aec7e8 ff7f0e ffbb78 2ca02c 98df8a d62728 ff9896 9467bd c5b0d5 8c564b c49c94 e377c2 f7b6d2 7f7f7f c7c7c7 bcbd22 dbdb8d 17becf 9edae5",
].map((colors) => colors.split(" ").map((color) => `#${color}`));
const MOST_ADDED = 300; // points of a value that are appended before all are fetched and thinned again

export class Curves {
  /** Show the curves of runs. `labels` are their names by id. */
  constructor(runs, labels) {
    this.runs = runs;
    const palette = PALETTES[runs.length > 10 ? 1 : 0];
    this.colors = new Map(runs.map((run, i) => [run, palette[i % palette.length]]));
    this.labels = labels;
    this.hidden = new Set();
    this.view = { axis: "epochs", log: false, smoothing: 0, range: null, end: 0 };
    this.cursors = [];
    this.series = new Map();
    this.charts = new Map();
    this.flat = {};
    this.added = 0;
    this.sections = make("div");
    this.element = make("div", {}, this.bar(), this.sections);
    let width = 0;
    this.observer = new ResizeObserver(() => {
      if (this.sections.clientWidth !== width) {
        width = this.sections.clientWidth;
        this.draw();
      }
    });
    this.observer.observe(this.sections);
  }

  close() { this.observer.disconnect(); }

  bar() {
    const axis = make("select", { change: () => { this.view.axis = axis.value; this.zoom(null); } },
      make("option", { value: "epochs" }, "epochs"), make("option", { value: "steps" }, "steps"));
    const log = make("input", { type: "checkbox", change: () => { this.view.log = log.checked; this.draw(); } });
    const weight = make("output", {}, "off");
    const smoothing = make("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: 0, input: () => {
      this.view.smoothing = Number(smoothing.value);
      weight.textContent = this.view.smoothing ? smoothing.value : "off";
      this.draw();
    } });
    this.reset = make("button", { type: "button", disabled: true, click: () => this.zoom(null) }, "Reset zoom");
    return make("div", { class: "bar", role: "group", "aria-label": "curves" },
      make("label", {}, "Axis", axis), make("label", {}, log, "Logarithmic"),
      make("label", {}, "Smoothing", smoothing, weight), this.reset);
  }

  /** Fetch a rough picture of long curves, which is here before the server has read all of them. */
  async preview() {
    const page = await ask("metrics", [...this.runs.map((run) => ["run", run]), ["preview", 1]]);
    this.take(page);
    if (page.preview) this.cursors = [];
  }

  /** Fetch what is new. */
  async update() {
    if (this.view.range) return; // the points of a zoom stay as they are
    const request = this.request = {};
    const cursors = this.added > MOST_ADDED ? [] : this.cursors;
    const parameters = [...this.runs.map((run) => ["run", run]), ...cursors.map((cursor) => ["cursor", cursor])];
    const page = await ask("metrics", parameters);
    if (this.request === request) this.take(page);
  }

  async zoom(range) {
    const request = this.request = {};
    this.view.range = range;
    this.reset.disabled = !range;
    if (!range) {
      this.cursors = [];
      this.draw();
      return this.update();
    }
    this.draw(); // the points that are here, until the finer ones come
    const room = (range[1] - range[0]) / 50;
    const page = await ask("metrics", [...this.runs.map((run) => ["run", run]), ["axis", this.view.axis],
      ["low", range[0] - room], ["high", range[1] + room], ["points", 1000]]);
    if (this.request !== request) return;
    for (const [run, found] of Object.entries(page.runs)) this.series.set(run, found.series);
    this.draw();
  }

  take(page) {
    const runs = Object.entries(page.runs);
    this.cursors = this.runs.map((run) => page.runs[run].cursor);
    if (page.groups) {
      this.series = new Map(runs.map(([run, found]) => [run, found.series]));
      this.added = 0;
      this.arrange(page.groups);
    } else if (runs.every(([, found]) => !Object.keys(found.series).length)) {
      return;
    } else if (!this.append(runs)) {
      this.cursors = [];
      return this.update();
    }
    this.draw();
  }

  /** Append new points. Return whether the charts can stay as they are. */
  append(runs) {
    let known = true, most = 0;
    for (const [run, { series }] of runs) {
      for (const [name, points] of Object.entries(series)) {
        const isFlat = points.values.every((value) => value === this.flat[name]);
        if (!this.charts.has(name) && !isFlat) known = false;
        const own = this.series.get(run);
        if (own[name]) for (const part of ["steps", "epochs", "values"]) own[name][part].push(...points[part]);
        else own[name] = points;
        most = Math.max(most, points.values.length);
      }
    }
    this.added += most;
    return known;
  }

  /** Put each value into the section of its group. */
  arrange(groups) {
    const shape = JSON.stringify(groups.map((group) => [group.title, group.lines, group.charts.map((chart) => chart.name)]));
    for (const chart of groups.flatMap((group) => group.charts)) {
      const known = this.charts.get(chart.name);
      if (known) known.about = chart;
    }
    this.flat = Object.assign({}, ...groups.map((group) => group.flat));
    if (shape === this.shape) return;
    this.shape = shape;
    const before = this.charts;
    this.charts = new Map();
    this.sections.replaceChildren(...groups.map((group) => {
      for (const about of group.charts) {
        this.charts.set(about.name, before.get(about.name) ?? new Chart(about, (range) => this.zoom(range)));
      }
      return section(anchor(group.title), group.title,
        group.lines.length > 0 && make("ul", { class: "points" }, group.lines.map((line) => make("li", {}, line))),
        this.runs.length > 1 && group.charts.length > 0 && this.legend(),
        make("div", { class: "charts" }, group.charts.map((about) => this.charts.get(about.name).element)));
    }));
    this.titles = groups.map((group) => group.title);
  }

  /** Make the names of the runs with their colors. A click hides the curves of a run. */
  legend() {
    return make("ul", { class: "legend" }, this.runs.map((run) => {
      const swatch = make("i", { class: "swatch", "aria-hidden": "true" });
      swatch.style.background = this.colors.get(run);
      return make("li", {}, make("button", { type: "button", "aria-pressed": String(!this.hidden.has(run)), "data-run": run, click: () => {
        if (!this.hidden.delete(run)) this.hidden.add(run);
        for (const button of this.sections.querySelectorAll(".legend button")) {
          button.setAttribute("aria-pressed", String(!this.hidden.has(button.dataset.run)));
        }
        this.draw();
      } }, swatch, this.labels.get(run) ?? run));
    }));
  }

  draw() {
    const ends = [...this.series.values()].flatMap((series) => Object.values(series).map((points) => points[this.view.axis].at(-1) ?? 0));
    if (!this.view.range) this.view.end = Math.max(0, ...ends);
    for (const [name, chart] of this.charts) {
      chart.show(this.runs.filter((run) => this.series.get(run)?.[name] && !this.hidden.has(run)).map((run) => (
        { label: this.labels.get(run) ?? run, color: this.colors.get(run), ...this.series.get(run)[name] })), this.view);
    }
    if (this.charts.size) performance.mark("curves");
  }
}

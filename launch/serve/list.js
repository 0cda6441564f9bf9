// The list of runs: filter, sort, and choose some to compare.
import { address, ago, ask, duration, make, short } from "./dom.js";

const COLUMNS = [
  ["run", (run) => run.id], ["state", (run) => run.state], ["method", (run) => run.method], ["step", (run) => run.step],
  ["epoch", (run) => run.epoch], ["loss", (run) => run.loss], ["kNN", (run) => run.knn], ["images/s", (run) => run.images_per_second],
  ["left", (run) => run.seconds_left], ["goodput", (run) => run.goodput], ["written", (run) => run.updated],
];
const BAD = ["cannot be read", "error", "killed", "stalled", "no end noted", "lost rank", "diverged"];

/** Return the marker of a state. */
export function stateOf(state) {
  const kind = state === "running" || state === "finished" ? state : BAD.includes(state) ? "bad" : "";
  return make("span", { class: `state ${kind}` }, state);
}

export class List {
  constructor() {
    this.chosen = new Set();
    this.rows = new Map();
    this.sorted = ["run", 1];
    this.filter = make("input", { type: "search", placeholder: "name, state or method", input: () => this.arrange() });
    this.compare = make("a", { class: "button", role: "button" }, "Compare");
    this.count = make("span", { role: "status" });
    this.body = make("tbody", { keydown: (event) => this.key(event) });
    this.heads = COLUMNS.map(([name]) => make("th", { scope: "col", class: COLUMNS.findIndex(([column]) => column === name) > 2 ? "number" : null }, make("button", { type: "button", click: () => this.sort(name) }, name)));
    this.empty = make("div", { class: "empty", hidden: true });
    this.table = make("table", { class: "runs stacked many", role: "table" }, make("thead", {}, make("tr", { role: "row" }, this.heads)), this.body);
    this.bar = make("div", { class: "bar" }, make("label", {}, "Filter", this.filter), this.compare, this.count);
    this.element = make("div", {}, this.bar, this.empty, make("div", { class: "scroll" }, this.table));
    this.showChosen();
  }

  async update() {
    const found = await ask("runs");
    this.most = found.most_compared;
    this.runs = found.runs;
    const known = new Set(found.runs.map((run) => run.id));
    for (const id of [...this.rows.keys()].filter((id) => !known.has(id))) {
      this.rows.get(id).remove();
      this.rows.delete(id);
      this.chosen.delete(id);
    }
    for (const run of found.runs) this.fill(run);
    this.arrange();
    this.empty.hidden = this.runs.length > 0;
    this.table.hidden = this.bar.hidden = !this.runs.length;
    if (!this.runs.length && !this.empty.hasChildNodes()) {
      this.empty.append(make("p", {}, `There are no runs in ${found.folder} yet. A run begins with, for example:`),
        make("p", {}, make("code", {}, `all4one train digits_demo run.folder=${found.path}`)),
        make("p", {}, "It appears here by itself. A folder of runs has folders with a config.yaml, at most two levels down."));
    }
    this.showChosen();
    performance.mark("list");
    return found;
  }

  /** Make or refresh the row of a run. The row stays, so that it keeps the focus. */
  fill(run) {
    const cells = [
      stateOf(run.state), run.method ?? "", run.step === null ? "" : `${run.step.toLocaleString("en")}${run.total_steps ? `/${run.total_steps.toLocaleString("en")}` : ""}`,
      run.epoch === null ? "" : short(run.epoch), run.loss === null ? "" : short(run.loss), run.knn === null ? "" : `${(100 * run.knn).toFixed(2)} %`,
      run.images_per_second === null ? "" : Math.round(run.images_per_second).toLocaleString("en"),
      run.seconds_left === null ? "" : duration(run.seconds_left), run.goodput === null ? "" : `${(100 * run.goodput).toFixed(1)} %`,
      run.updated === null ? "" : ago(run.updated),
    ];
    let row = this.rows.get(run.id);
    if (!row) {
      const box = make("input", { type: "checkbox", "aria-label": `compare ${run.id}`, change: () => {
        if (box.checked) this.chosen.add(run.id); else this.chosen.delete(run.id);
        this.showChosen();
      } });
      row = make("tr", { role: "row" }, make("td", { role: "cell", "data-label": "run" },
        make("span", { class: "run" }, box, make("span", {}, make("a", { href: address([run.id]) }, run.id), make("div", { class: "problem" })))),
      cells.map((_, i) => make("td", { role: "cell", "data-label": COLUMNS[i + 1][0], class: i > 1 ? "number" : null })));
      this.rows.set(run.id, row);
    }
    row.querySelector(".problem").textContent = run.problem ?? "";
    row.querySelector("input").disabled = run.attempts === null; // it is no run, or cannot be read
    cells.forEach((cell, i) => {
      const shown = row.cells[i + 1];
      if (typeof cell === "string" ? shown.textContent !== cell : shown.textContent !== cell.textContent) shown.replaceChildren(cell);
    });
  }

  sort(name) {
    this.sorted = [name, this.sorted[0] === name ? -this.sorted[1] : 1];
    this.arrange();
  }

  arrange() {
    const [name, sign] = this.sorted, of = COLUMNS.find(([column]) => column === name)[1];
    this.heads.forEach((head, i) => head.setAttribute("aria-sort", COLUMNS[i][0] !== name ? "none" : sign > 0 ? "ascending" : "descending"));
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = (this.runs ?? []).filter((run) => {
      const text = `${run.id} ${run.state} ${run.method ?? ""} ${run.backbone ?? ""} ${run.description ?? ""}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    shown.sort((a, b) => {
      const [x, y] = [of(a), of(b)];
      if (x === null || y === null) return (x === null) - (y === null); // unknown ones come last
      return sign * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y);
    });
    const rows = shown.map((run) => this.rows.get(run.id));
    if (rows.length !== this.body.rows.length || rows.some((row, i) => this.body.rows[i] !== row)) {
      const focused = document.activeElement;
      this.body.replaceChildren(...rows);
      if (this.body.contains(focused)) focused.focus();
    }
  }

  showChosen() {
    const count = this.chosen.size, fits = count >= 2 && count <= (this.most ?? 20);
    this.compare.textContent = count ? `Compare ${count} run${count > 1 ? "s" : ""}` : "Compare";
    this.compare.setAttribute("aria-disabled", String(!fits));
    if (fits) this.compare.href = address([...this.chosen]); else this.compare.removeAttribute("href");
    this.count.textContent = count > (this.most ?? 20) ? `at most ${this.most} fit` : count < 2 ? "choose two or more runs" : "";
  }

  /** Up and down go from run to run. */
  key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const rows = [...this.body.rows], now = rows.indexOf(event.target.closest("tr"));
    const next = rows[now + step];
    if (next) {
      next.querySelector(event.target.matches("input") ? "input" : "a").focus();
      event.preventDefault();
    }
  }
}

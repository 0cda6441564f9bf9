// A chart of lines: hover and keys read values, a drag zooms, and a logarithmic axis and smoothing are optional.
import { draw, make, short } from "./dom.js";

const HEIGHT = 210, LEFT = 50, RIGHT = 12, TOP = 8, BOTTOM = 34;
const FEW = 25; // with fewer values, each one is marked

export class Chart {
  /**
   * @param about name, label, meaning, limits, and whether values are percents or counts, as the server gives them
   * @param zoom called with the two ends of a new range, or with null for the whole
   */
  constructor(about, zoom) {
    this.about = about;
    this.zoom = zoom;
    this.at = null; // the place of the cursor on the x axis
    this.svg = draw("svg", { class: "chart", "aria-hidden": "true" });
    this.readout = make("div", { class: "readout", hidden: true });
    this.spoken = make("div", { class: "hidden", "aria-live": "polite" });
    this.newest = make("span");
    this.plot = make("div", {
      class: "plot", tabindex: "0", role: "application", "aria-roledescription": "chart",
      pointermove: (event) => this.moved(event), pointerleave: () => this.leave(), pointerdown: (event) => this.pressed(event),
      pointerup: (event) => this.released(event), pointercancel: () => { this.from = null; this.render(); },
      dblclick: () => this.zoom(null), keydown: (event) => this.key(event), blur: () => this.leave(),
    }, this.svg, this.readout, this.spoken);
    const code = about.name !== about.label && about.name !== "τ" ? make("code", {}, about.name) : null;
    this.element = make("figure", {}, make("figcaption", {}, make("strong", {}, about.label), code, this.newest),
      this.plot, about.meaning && make("small", {}, about.meaning));
  }

  /**
   * Show lines.
   * @param lines label, color, steps, epochs and values of each
   * @param view axis (`epochs` or `steps`), log, smoothing in [0, 1), and range: the shown part of the axis or null
   */
  show(lines, view) {
    this.lines = lines.filter((line) => line.values.length);
    this.view = view;
    this.drawn = this.lines.map((line) => ({ ...line, xs: line[view.axis], ys: this.smoothed(line.values) }));
    this.render();
    if (view.range) return; // the words are about the whole curve
    const ends = this.drawn.map((line) => `${line.label} ends at ${this.format(line.values.at(-1))}`);
    this.plot.setAttribute("aria-label", `${this.about.label} over ${view.axis}: ${ends.slice(0, 20).join("; ")}. ` +
      "Left and right read values, plus and minus zoom, Escape shows all.");
    if (this.lines.length === 1) {
      const { epochs, values } = this.lines[0];
      this.newest.textContent = `${this.format(values.at(-1))} at epoch ${short(epochs.at(-1))}, first ${this.format(values[0])}`;
    } else this.newest.textContent = "";
  }

  format(value) {
    return this.about.percent ? `${(100 * value).toFixed(2)} %` : short(value);
  }

  /** Return an exponential mean without the bias of its start. */
  smoothed(values) {
    const weight = this.view.smoothing;
    if (!weight) return values;
    let mean = 0, sum = 0;
    return values.map((value) => {
      mean = weight * mean + (1 - weight) * value;
      sum = weight * sum + (1 - weight);
      return mean / sum;
    });
  }

  /** Find the ends of both axes. */
  scale() {
    const { range, log } = this.view, factor = this.about.percent ? 100 : 1;
    const every = this.drawn.flatMap((line) => [line.xs[0], line.xs.at(-1)]);
    this.x0 = range ? range[0] : Math.min(0, ...every);
    this.x1 = range ? range[1] : Math.max(this.view.end ?? 0, ...every);
    if (!(this.x1 > this.x0)) this.x1 = this.x0 + 1;
    let low = Infinity, high = -Infinity, least = Infinity;
    for (const { xs, values, ys } of this.drawn) {
      for (let i = 0; i < xs.length; i++) {
        if (xs[i] < this.x0 || xs[i] > this.x1) continue;
        for (const value of [factor * values[i], factor * ys[i]]) {
          if (value < low) low = value;
          if (value > high) high = value;
          if (value > 0 && value < least) least = value;
        }
      }
    }
    if (low > high) [low, high] = this.about.limits;
    if (log && least < Infinity) {
      [this.y0, this.y1] = [Math.log10(least) - 0.04, Math.log10(Math.max(high, least)) + 0.04];
      if (this.y1 - this.y0 < 0.2) [this.y0, this.y1] = [this.y0 - 0.1, this.y1 + 0.1];
    } else if (range) {
      const room = 0.06 * (high - low) || 0.05 * Math.abs(high) || 1;
      [this.y0, this.y1] = [low - room, high + room];
    } else [this.y0, this.y1] = [Math.min(this.about.limits[0], low), Math.max(this.about.limits[1], high)];
    this.isLog = log && least < Infinity;
    this.width = Math.max(160, this.plot.clientWidth);
  }

  left(x) { return LEFT + (x - this.x0) / (this.x1 - this.x0) * (this.width - LEFT - RIGHT); }

  top(value) {
    const scaled = this.about.percent ? 100 * value : value;
    const y = this.isLog ? Math.log10(scaled) : scaled; // -Infinity for 0, NaN below
    return TOP + (1 - (y - this.y0) / (this.y1 - this.y0)) * (HEIGHT - TOP - BOTTOM);
  }

  x(pixels) { return this.x0 + (pixels - LEFT) / (this.width - LEFT - RIGHT) * (this.x1 - this.x0); }

  render() {
    if (!this.view || !this.plot.clientWidth) return; // not on the page
    this.scale();
    const { width } = this, bottom = HEIGHT - BOTTOM, parts = [];
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    for (const tick of ticks(this.x0, this.x1, width / 90, this.view.axis === "steps")) {
      const x = this.left(tick).toFixed(1);
      parts.push(draw("line", { class: "grid", x1: x, x2: x, y1: TOP, y2: bottom }),
        draw("text", { x, y: bottom + 14, "text-anchor": "middle" }, short(tick)));
    }
    for (const [tick, text] of this.isLog ? logTicks(this.y0, this.y1) : ticks(this.y0, this.y1, 5, this.about.count).map((t) => [t, short(t)])) {
      const y = (TOP + (1 - (tick - this.y0) / (this.y1 - this.y0)) * (bottom - TOP)).toFixed(1);
      parts.push(draw("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }),
        draw("text", { x: LEFT - 6, y: Number(y) + 4, "text-anchor": "end" }, text));
    }
    parts.push(draw("path", { class: "axis", fill: "none", d: `M${LEFT} ${TOP}V${bottom}H${width - RIGHT}` }),
      draw("text", { x: (LEFT + width - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, this.view.axis));
    const unit = this.unit();
    if (unit) parts.push(draw("text", { transform: `translate(11 ${(TOP + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, unit));
    for (const line of this.drawn) {
      if (line.ys !== line.values) parts.push(this.path(line, line.values, "line faint"));
      parts.push(this.path(line, line.ys, "line"));
      if (line.values.length < FEW) this.mark(line, parts);
    }
    this.svg.replaceChildren(...parts);
    this.renderCursor();
  }

  unit() {
    if (this.isLog) return this.about.percent ? "%, logarithmic" : "logarithmic";
    if (this.about.percent) return "%";
    return this.y0 > 0 || this.y1 < 0 ? "does not start at 0" : "";
  }

  path(line, ys, kind) {
    let d = "", pen = "M";
    for (let i = 0; i < ys.length; i++) {
      const beyond = (i + 1 < line.xs.length && line.xs[i + 1] < this.x0) || (i > 0 && line.xs[i - 1] > this.x1);
      const y = this.top(ys[i]);
      if (beyond || !Number.isFinite(y)) { pen = "M"; continue; }
      d += `${pen}${this.inside(this.left(line.xs[i]), -9, 3 * this.width)} ${this.inside(y, -HEIGHT, 2 * HEIGHT)}`;
      pen = "L";
    }
    const path = draw("path", { class: kind, d, stroke: line.color });
    if (this.view.range) path.style.clipPath = `inset(${TOP}px ${RIGHT}px ${BOTTOM}px ${LEFT}px) view-box`;
    return path;
  }

  inside(value, low, high) { return Math.min(high, Math.max(low, value)).toFixed(1); }

  mark(line, parts) {
    line.xs.forEach((x, i) => {
      const y = this.top(line.ys[i]);
      if (x >= this.x0 && x <= this.x1 && Number.isFinite(y)) {
        parts.push(draw("circle", { cx: this.left(x).toFixed(1), cy: y.toFixed(1), r: 2.6, fill: line.color }));
      }
    });
  }

  moved(event) {
    const x = event.clientX - this.plot.getBoundingClientRect().left;
    this.at = this.nearest(this.x(x));
    this.to = x;
    this.renderCursor();
  }

  pressed(event) {
    if (event.button) return;
    this.plot.setPointerCapture(event.pointerId);
    this.from = this.to = event.clientX - this.plot.getBoundingClientRect().left;
  }

  released() {
    const [from, to] = [this.from, this.to];
    this.from = null;
    if (from != null && Math.abs(to - from) > 8) {
      const ends = [this.x(from), this.x(to)].map((x) => Math.min(this.x1, Math.max(this.x0, x))).sort((a, b) => a - b);
      if (ends[1] > ends[0]) this.zoom(ends);
    } else this.renderCursor();
  }

  leave() {
    this.at = this.from = null;
    this.renderCursor();
  }

  /** Return the recorded place on the x axis that is nearest to a place. */
  nearest(x) {
    let best = null;
    for (const { xs } of this.drawn ?? []) {
      const after = place(xs, x);
      for (const i of [after - 1, after]) {
        if (i >= 0 && i < xs.length && xs[i] >= this.x0 && xs[i] <= this.x1 && (best === null || Math.abs(xs[i] - x) < Math.abs(best - x))) best = xs[i];
      }
    }
    return best;
  }

  /** Return the value of each line at the cursor. */
  read() {
    return this.drawn.flatMap((line) => {
      const after = place(line.xs, this.at);
      const i = after > 0 && (after === line.xs.length || this.at - line.xs[after - 1] < line.xs[after] - this.at) ? after - 1 : after;
      const gap = (this.x1 - this.x0) / 50;
      return line.xs.length && Math.abs(line.xs[i] - this.at) <= gap ? [{ line, i }] : [];
    });
  }

  renderCursor() {
    this.svg.querySelectorAll(".over").forEach((element) => element.remove());
    if (this.from != null && Math.abs(this.to - this.from) > 3) {
      this.svg.append(draw("rect", { class: "chosen over", x: Math.min(this.from, this.to), y: TOP, width: Math.abs(this.to - this.from), height: HEIGHT - TOP - BOTTOM }));
    }
    const found = this.at === null || !this.drawn ? [] : this.read();
    this.readout.hidden = !found.length;
    if (!found.length) return;
    const x = this.left(this.at);
    this.svg.append(draw("line", { class: "cursor over", x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }));
    for (const { line, i } of found) {
      const y = this.top(line.ys[i]);
      if (Number.isFinite(y)) this.svg.append(draw("circle", { class: "over", cx: this.left(line.xs[i]), cy: y, r: 3.5, fill: line.color }));
    }
    const rows = found.slice(0, 20).map(({ line, i }) => {
      const swatch = make("i");
      swatch.style.background = line.color;
      return make("div", {}, this.drawn.length > 1 ? swatch : null, this.words(line, i));
    });
    this.readout.replaceChildren(make("div", {}, this.where(found)), ...rows);
    const onRight = x < this.width / 2;
    this.readout.style.left = onRight ? `${x + 10}px` : "auto";
    this.readout.style.right = onRight ? "auto" : `${this.width - x + 10}px`;
  }

  words(line, i) {
    const name = this.drawn.length > 1 ? `${line.label}: ` : "";
    const mean = line.ys !== line.values ? `, smoothed ${this.format(line.ys[i])}` : "";
    return `${name}${this.format(line.values[i])}${mean}`;
  }

  where(found) {
    const { line, i } = found[0];
    return `epoch ${short(line.epochs[i])}, step ${line.steps[i].toLocaleString("en")}`;
  }

  key(event) {
    const jump = event.shiftKey ? 10 : 1;
    if (event.key === "ArrowLeft") this.step(-jump);
    else if (event.key === "ArrowRight") this.step(jump);
    else if (event.key === "Home") this.at = this.nearest(this.x0);
    else if (event.key === "End") this.at = this.nearest(this.x1);
    else if (event.key === "+" || event.key === "=") this.zoomBy(0.5);
    else if (event.key === "-") this.zoomBy(2);
    else if (event.key === "Escape") this.zoom(null);
    else return;
    event.preventDefault();
    this.renderCursor();
    const found = this.at === null ? [] : this.read();
    this.spoken.textContent = found.length ? `${this.where(found)}: ${found.map(({ line, i }) => this.words(line, i)).join("; ")}` : "";
  }

  /** Move the cursor by some recorded places. */
  step(count) {
    const xs = [...new Set(this.drawn.flatMap((line) => line.xs))].filter((x) => x >= this.x0 && x <= this.x1).sort((a, b) => a - b);
    const now = this.at === null ? (count > 0 ? -1 : xs.length) : place(xs, this.at);
    this.at = xs.length ? xs[Math.min(xs.length - 1, Math.max(0, now + count))] : null;
  }

  zoomBy(factor) {
    const middle = this.at ?? (this.x0 + this.x1) / 2, half = (this.x1 - this.x0) * factor / 2;
    if (factor > 1 && !this.view.range) return;
    this.zoom([Math.max(0, middle - half), middle + half]);
  }
}

/** Return the place of the first number of an ascending list that is at least `x`. */
function place(xs, x) {
  let low = 0, high = xs.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle + 1; else high = middle;
  }
  return low;
}

/** Return about `count` round numbers between two ends. */
function ticks(low, high, count, whole) {
  const rough = (high - low) / Math.max(2, count), power = 10 ** Math.floor(Math.log10(rough));
  let unit = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough) ?? 10 * power;
  if (whole) unit = Math.max(1, unit);
  const found = [];
  for (let i = Math.ceil(low / unit - 1e-9); i * unit <= high + 1e-9 * unit; i++) found.push(i * unit);
  return found;
}

/** Return places and texts of a logarithmic axis between two powers of ten. */
function logTicks(low, high) {
  const digits = high - low < 1.5 ? [1, 2, 5] : [1], found = [];
  const stride = Math.max(1, Math.ceil((high - low) / 6));
  for (let power = Math.floor(low); power <= high; power += stride) {
    for (const digit of digits) {
      const y = power + Math.log10(digit);
      if (y >= low && y <= high) found.push([y, short(digit * 10 ** power)]);
    }
  }
  if (found.length >= 3) return found;
  return ticks(10 ** low, 10 ** high, 5).filter((tick) => tick > 0).map((tick) => [Math.log10(tick), short(tick)]);
}

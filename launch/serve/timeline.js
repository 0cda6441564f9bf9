// The timeline of a profiled step, and the table of its parts.
import { ask, draw, make, section, table } from "./dom.js";

const COLORS = "1f77b4 ff7f0e 2ca02c d62728 9467bd 8c564b e377c2 7f7f7f bcbd22 17becf aec7e8 ffbb78 98df8a ff9896".split(" ");
const ROW = 26, TOP = 4, WIDTH = 1000;

/** Make the section of a run's profile. */
export async function profileSection(run) {
  const found = await ask("profile", [["run", run]]);
  const total = Object.values(found.parts).reduce((sum, seconds) => sum + seconds, 0);
  const rows = Object.entries(found.parts).filter(([, seconds]) => seconds > 0)
    .map(([name, seconds]) => [name, (1000 * seconds).toFixed(2), `${(100 * seconds / total).toFixed(1)} %`]);
  return section("profile", "Profile", make("p", { class: "verdict" }, found.words), make("p", {}, make("small", {}, found.about)),
    timeline(found.spans), table(["part of a step", "milliseconds", "fraction"], rows));
}

function timeline(spans) {
  const [, first, last] = spans.filter(([name]) => name === "step").at(-1) ?? [];
  const open = [], bars = [];
  for (const [name, start, end] of spans) {
    while (open.length && open.at(-1) <= start) open.pop();
    if (name !== "step" && start >= first && end <= last) bars.push({ name, start: 1000 * (start - first), length: 1000 * (end - start), depth: Math.max(0, open.length - 1) });
    open.push(end);
  }
  const whole = 1000 * (last - first), names = [...new Set(bars.map((bar) => bar.name))];
  const color = (name) => `#${COLORS[names.indexOf(name) % COLORS.length]}`;
  const height = TOP + ROW * (1 + Math.max(0, ...bars.map((bar) => bar.depth)));
  const svg = draw("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${height}`, "aria-hidden": "true", preserveAspectRatio: "none" });
  svg.style.height = `${height}px`; // bars stay as high on a narrow screen
  const readout = make("p", { "aria-live": "polite" }, "Hover over a bar, or use the left and right keys, to read it.");
  const shapes = bars.map((bar) => {
    const shape = draw("rect", { class: "span", x: WIDTH * bar.start / whole, y: TOP + ROW * bar.depth, height: ROW - 3,
      width: Math.max(1, WIDTH * bar.length / whole), fill: color(bar.name) });
    shape.addEventListener("pointerenter", () => show(bars.indexOf(bar)));
    return shape;
  });
  let now = -1;
  const show = (i) => {
    if (!bars.length) return;
    now = Math.min(bars.length - 1, Math.max(0, i));
    shapes.forEach((shape, k) => shape.classList.toggle("now", k === now));
    const { name, start, length } = bars[now];
    readout.textContent = `${name}: ${length.toFixed(2)} ms, from ${start.toFixed(2)} ms, ${(100 * length / whole).toFixed(1)} % of the step`;
  };
  svg.append(...shapes);
  const scale = make("p", { class: "scale" }, make("span", {}, "0 ms"), make("span", {}, `${whole.toFixed(1)} ms`));
  const plot = make("div", { class: "plot timeline", tabindex: "0", role: "application", "aria-roledescription": "timeline",
    "aria-label": `Timeline of a step of ${whole.toFixed(1)} ms with ${bars.length} parts. Left and right read them.`,
    keydown: (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) { show(now + step); event.preventDefault(); }
    } }, svg, scale);
  const legend = make("ul", { class: "legend" }, names.map((name) => {
    const swatch = make("i", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = color(name);
    return make("li", {}, swatch, name);
  }));
  return make("div", {}, make("p", {}, make("small", {}, "The last measured step. Lower bars lie inside the bars above.")), legend, plot, readout);
}

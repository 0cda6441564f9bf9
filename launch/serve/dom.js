// Elements of the page. Text from runs becomes text nodes, never HTML.

/** Make an element. Attributes that are functions are listeners, and false or null ones are left out. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

/** Make an element of an SVG. */
export function draw(tag, attributes = {}, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== "") element.textContent = text;
  return element;
}

/** Make the table of a section, which is a list of blocks on a phone. */
export function table(header, rows) {
  const kind = header.length > 2 ? `stacked${header.length > 3 ? " many" : ""}` : null;
  const cells = (row) => row.map((cell, i) => make("td", { role: "cell", "data-label": header[i] }, cell));
  return make("div", { class: "scroll" }, make("table", { role: "table", class: kind },
    make("thead", {}, make("tr", { role: "row" }, header.map((cell) => make("th", { scope: "col" }, cell)))),
    make("tbody", {}, rows.map((row) => make("tr", { role: "row" }, cells(row))))));
}

/** Make a section with its title. */
export function section(id, title, ...children) {
  return make("section", { id, "aria-labelledby": `${id}-title` }, make("h2", { id: `${id}-title` }, title), ...children);
}

/** Make a section of the report: words, lines and a table. */
export function written(found) {
  return section(anchor(found.title), found.title,
    found.words && make("p", {}, found.words),
    found.points.length > 0 && make("ul", { class: "points" }, found.points.map((line) => make("li", {}, line))),
    found.rows.length > 0 && table(found.header, found.rows));
}

/** Return the anchor of a title. */
export const anchor = (title) => title.toLowerCase().replace(/[^a-z0-9]/g, "-");

/** Return the address of a page: of the list without runs, of one run, or of several side by side. */
export function address(runs, at = "") {
  const parts = runs.map((run) => ["run", run]);
  return `#${new URLSearchParams(at ? [...parts, ["at", at]] : parts)}`;
}

/** Return how long ago a time was, such as `5 min ago`. */
export function ago(seconds) {
  const passed = Math.max(0, Date.now() / 1000 - seconds);
  return `${duration(passed)} ago`;
}

/** Return a time in the largest unit that gives at least 2. */
export function duration(seconds) {
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * length) return `${Math.round(seconds / length)} ${unit}`;
  }
  return `${Math.round(seconds)} s`;
}

/** Return a number with four significant digits. */
export function short(value) {
  if (value !== 0 && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-4)) return value.toExponential(2);
  return Number(value.toPrecision(4)).toString();
}

/** Ask the server. The browser adds the mark of what it has, and an unchanged answer is not sent again. */
export async function ask(path, parameters = []) {
  const answer = await fetch(`api/${path}?${new URLSearchParams(parameters)}`, { cache: "no-cache" });
  const found = await answer.json();
  if (!answer.ok) throw new Refused(found.error);
  return found;
}

/** The server has answered that it cannot do what was asked. */
export class Refused extends Error {}

// The page: it shows what the address names, and asks for what is new every few seconds.
import { Curves } from "./curves.js";
import { Refused, address, anchor, ask, make, section, table, written } from "./dom.js";
import { List, stateOf } from "./list.js";
import { Logs } from "./logs.js";
import { profileSection } from "./timeline.js";

const EVERY_MS = 3000, READING = "Reading the folder…";
const [head, nav, content, foot, trouble] = ["head", "sections", "content", "foot", "trouble"].map((id) => document.getElementById(id));
document.getElementById("skip").addEventListener("click", (event) => { event.preventDefault(); content.focus(); });

/** The page of the list. */
class ListPage {
  async open() {
    this.list = new List();
    content.replaceChildren(this.list.element);
    nav.hidden = true;
  }

  async update() {
    const found = await this.list.update();
    if (found.single) {
      location.replace(address(["."]));
      return;
    }
    title(found.folder, `${found.runs.length} run${found.runs.length === 1 ? "" : "s"}`);
  }

  close() {}
}

/** The page of one run, or of several side by side. */
class RunsPage {
  constructor(runs) { this.runs = runs; }

  async open() {
    this.curves = new Curves(this.runs, new Map());
    [this.cards, this.results, this.tables, this.extra] = [make("div"), make("div"), make("div"), make("div")];
    this.shown = {};
    content.replaceChildren(this.cards, this.results, this.curves.element, this.extra, this.tables);
    if (this.runs.length === 1) {
      this.logs = new Logs(this.runs[0]);
      this.settings = make("div");
      content.append(this.logs.element, this.settings);
    }
  }

  async update() {
    if (!this.shown.preview) {
      await this.curves.preview();
      this.shown.preview = true;
      requestAnimationFrame(() => this.showSections());
    }
    await Promise.all([this.curves.update(), this.runs.length === 1 ? this.one() : this.several()]);
    this.showSections();
  }

  close() { this.curves.close(); }

  async one() {
    const found = await ask("run", [["run", this.runs[0]]]);
    const name = found.name ?? found.id;
    this.curves.labels.set(this.runs[0], name);
    this.once("title", [name, found.state, found.left, found.why], () => {
      const left = found.left ? `, ${found.left} left` : "";
      title(name, [found.description, found.subtitle].filter(Boolean).join(": "), found.id !== ".", stateOf(found.state), `${left}${found.why ? `: ${found.why}` : ""}`);
    });
    this.once("cards", found.figures, () => this.cards.replaceChildren(cards(found.figures)));
    this.once("results", found.results, () => this.results.replaceChildren(...found.results.map(written)));
    this.once("tables", found.sections, () => this.tables.replaceChildren(...found.sections.map(written)));
    this.once("settings", found.settings, () => this.settings.replaceChildren(section("settings", "Settings",
      make("details", {}, make("summary", {}, `All ${found.settings.length} settings`), table(["setting", "value"], found.settings)))));
    this.logs.element.hidden = !found.logs.length;
    this.curves.element.hidden = found.state === "profile";
    await this.logs.update(found.logs);
    if (found.profile && !this.shown.profile) {
      this.shown.profile = "profile";
      this.extra.prepend(await profileSection(this.runs[0]));
    }
    if (found.has_checkpoint && !this.shown.pictures) {
      this.shown.pictures = "pictures";
      this.extra.append(pictures(this.runs[0]));
    }
  }

  async several() {
    const found = await ask("compare", this.runs.map((run) => ["run", run]));
    this.once("title", [], () => title(`${this.runs.length} runs`, "side by side", true));
    this.once("tables", found.sections, () => {
      this.results.replaceChildren(written(found.sections[0]));
      this.tables.replaceChildren(...found.sections.slice(1).map(written));
      this.results.querySelectorAll("tbody tr").forEach((row, i) => {
        row.cells[0].replaceChildren(make("a", { href: address([this.runs[i]]) }, this.runs[i]));
      });
    });
  }

  /** Draw a part again only if it has changed, so that a selection or the focus in it stays. */
  once(part, found, show) {
    const text = JSON.stringify(found);
    if (this.shown[part] !== text) {
      this.shown[part] = text;
      show();
    }
  }

  /** List the sections that there are. */
  showSections() {
    const found = [...content.querySelectorAll("section")].filter((one) => !one.hidden && !one.parentElement.hidden && !one.closest("[hidden]"));
    this.once("nav", found.map((one) => one.id), () => {
      nav.replaceChildren(...found.map((one) => make("a", { href: address(this.runs, one.id) }, one.querySelector("h2").textContent)));
      nav.hidden = !found.length;
    });
  }
}

function title(name, words, isBelow = false, ...more) {
  document.title = `${name} – all4one`;
  head.replaceChildren(isBelow ? make("p", { class: "crumb" }, make("a", { href: address([]) }, "← all runs")) : "",
    make("h1", {}, name), make("p", {}, ...more, more.length && words ? make("br") : "", words));
}

function cards(figures) {
  return make("dl", { class: "cards" }, figures.map((figure) => make("div", {}, make("dt", {}, figure.name), make("dd", {}, figure.value),
    figure.when && make("dd", { class: "when" }, figure.when), figure.meaning && make("dd", { class: "meaning" }, figure.meaning))));
}

/** Make the section of pictures. They take a while and all cores, so they come when they are asked for. */
function pictures(run) {
  const words = make("p", {}, "Views, neighbors and a map of features, with the settings that differ from the base recipe. " +
    "They are computed from the newest checkpoint, which takes some seconds and all cores of the machine that serves this page.");
  const button = make("button", { type: "button", click: () => {
    button.disabled = true;
    words.textContent = "Computing features…";
    const frame = make("iframe", { class: "frame", sandbox: "allow-same-origin", title: `pictures of ${run}`, src: `pictures?${new URLSearchParams([["run", run]])}`,
      load: () => {
        const page = frame.contentDocument;
        const isPage = page?.contentType === "text/html";
        words.textContent = isPage ? "" : `Not shown: ${refusal(page)}`;
        if (!isPage) { frame.remove(); button.disabled = false; return; }
        button.remove();
        const fit = () => { frame.height = page.documentElement.scrollHeight; };
        new ResizeObserver(fit).observe(page.body);
        fit();
      } });
    words.after(frame);
  } }, "Show pictures");
  return section("pictures", "Pictures", words, button);
}

function refusal(page) {
  try { return JSON.parse(page.body.textContent).error; } catch { return "the server cannot be reached"; }
}

let page = null, timer = 0, shownRuns = null;

async function route() {
  const parameters = new URLSearchParams(location.hash.slice(1)), runs = parameters.getAll("run");
  if (JSON.stringify(runs) !== shownRuns) {
    shownRuns = JSON.stringify(runs);
    page?.close();
    page = runs.length ? new RunsPage(runs) : new ListPage();
    title(runs[0] === "." ? "Run" : runs.length === 1 ? runs[0] : runs.length ? `${runs.length} runs` : "Runs", READING, runs.length > 0 && runs[0] !== ".");
    nav.replaceChildren();
    content.hidden = false;
    nav.hidden = true;
    window.scrollTo(0, 0);
    await page.open();
    await tick();
  }
  const at = document.getElementById(parameters.get("at") ?? "");
  if (at) {
    at.scrollIntoView();
    at.querySelector("h2").tabIndex = -1;
    at.querySelector("h2").focus({ preventScroll: true });
  }
}

async function tick() {
  clearTimeout(timer);
  const now = page;
  try {
    if (!document.hidden) await now.update();
    trouble.hidden = true;
    content.hidden = false;
  } catch (error) {
    if (now !== page) return;
    const isRefused = error instanceof Refused;
    if (!isRefused && !(error instanceof TypeError)) console.error(error);
    if (isRefused && head.textContent.includes(READING)) {
      head.lastElementChild.textContent = "This page cannot be shown.";
      content.hidden = true;
    }
    trouble.textContent = isRefused ? error.message : "The server does not answer. The page tries again every few seconds.";
    trouble.hidden = false;
  }
  if (now === page) timer = setTimeout(tick, EVERY_MS);
}

window.addEventListener("hashchange", route);
document.addEventListener("visibilitychange", () => { if (!document.hidden && page) tick(); });
route();

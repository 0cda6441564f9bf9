// The end of a log, which grows. Earlier parts come when they are asked for.
import { ask, make, section } from "./dom.js";

const PART = 65536;

export class Logs {
  constructor(run) {
    this.run = run;
    this.text = make("pre", { class: "log", tabindex: "0", role: "region", "aria-label": "log" });
    this.choice = make("select", { change: () => this.open(this.choice.value) });
    this.earlier = make("button", { type: "button", click: () => this.before() }, "Earlier");
    this.place = make("span", { role: "status" });
    this.element = section("logs", "Logs", make("div", { class: "bar" }, make("label", {}, "File", this.choice), this.earlier, this.place), this.text);
  }

  /** Show the choice of files, newest first. */
  async update(logs) {
    const names = logs.map((log) => log.name);
    if (names.join("\n") !== this.names) {
      this.names = names.join("\n");
      this.choice.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
    }
    if (!names.includes(this.name)) {
      if (names.length) await this.open(names[0]);
      return;
    }
    this.choice.value = this.name;
    const size = logs.find((log) => log.name === this.name).size;
    if (size < this.end) await this.open(this.name); // a long log has begun anew
    else if (size > this.end) await this.after();
  }

  ask(range) { return ask("log", [["run", this.run], ["file", this.name], ...range]); }

  async open(name) {
    this.name = this.choice.value = name;
    const found = await this.ask([]);
    [this.start, this.end] = [found.start, found.end];
    this.text.textContent = found.text;
    this.text.scrollTop = this.text.scrollHeight;
    this.tell(found.size);
  }

  async before() {
    const found = await this.ask([["end", this.start], ["start", Math.max(0, this.start - PART)]]);
    const height = this.text.scrollHeight;
    this.text.prepend(found.text);
    this.start = found.start;
    this.text.scrollTop += this.text.scrollHeight - height;
    this.tell(found.size);
  }

  async after() {
    const atEnd = this.text.scrollTop + this.text.clientHeight >= this.text.scrollHeight - 20;
    const found = await this.ask([["start", this.end]]);
    if (found.start > this.end) return this.open(this.name);
    this.text.append(found.text);
    this.end = found.end;
    if (atEnd) this.text.scrollTop = this.text.scrollHeight;
    this.tell(found.size);
  }

  tell(size) {
    this.earlier.disabled = this.start === 0;
    this.place.textContent = this.start ? `the last ${((size - this.start) / 1024).toFixed(0)} of ${(size / 1024).toFixed(0)} KB` : "";
  }
}

/** @module A new cover beside the list of its sources: pointing at either, or moving there by keys, lights up the other. */

import { showPicture } from "/static/api/requests.js";
import { announce, build, percent, words } from "/static/document/dom.js";
import { walkable } from "/static/document/grid.js";
import { buildOverlay, Crosshair, light } from "/static/viewer/overlay.js";
import { showProblem } from "/static/document/problems.js";
import { loadMap, loadSources } from "/static/api/sources.js";

const FROM_COVER = 0.45;
const FROM_LIST = 0.82;
const REST_MS = 300;
const hovers = () => matchMedia("(hover: hover)").matches;
const hint = () => (hovers()
  ? "Point at a place of the cover, or at a source, to see what comes from where. Arrow keys do the same."
  : "Touch a place of the cover, or a source, to see what comes from where.");

function thumbnail(source) {
  const image = build("img", { alt: "" });
  showPicture(image, `${source.cover_url}?size=128`);
  return image;
}

function describeSource(source) {
  const { title, artist } = words(source);
  return [thumbnail(source), build("span", { className: "source-words" },
    build("span", { className: "source-title" }, title), " ", build("span", { className: "source-artist" }, artist))];
}

function row(source, largest) {
  const bar = build("span", { className: "share-bar", "aria-hidden": "true" });
  bar.style.setProperty("--share", String(source.share / largest));
  return build("button", { type: "button", className: "source", "data-tile": "", "aria-pressed": "false" },
    ...describeSource(source), " ", build("span", { className: "share" }, percent(source.share)), bar);
}

/** The parts of the viewer that show where one new cover comes from: `stage`, `caption` and `list` are its elements. */
export class Attribution {
  /**
   * @param {Object} image  of a job, with `sources_url`
   * @param {HTMLImageElement} picture  the cover, large
   * @param {string} name  of the cover, for those who do not see it
   */
  constructor(image, picture, name) {
    Object.assign(this, { image, sources: [], rows: [], map: null, shown: -1, kept: -1, spoken: -1 });
    this.overlay = buildOverlay();
    this.crosshair = new Crosshair();
    this.stage = build("div", {
      className: "stage", tabIndex: 0, role: "application",
      "aria-label": `${name}. Arrow keys move over it and name the source of each place, with Shift in larger steps. Enter keeps a source lit.`,
      on: {
        pointermove: (event) => this.pointAt(event), pointerleave: () => this.rest(), click: (event) => this.keepAt(event),
        keydown: (event) => this.onKey(event), focus: () => this.onFocus(), blur: () => this.onBlur(),
      },
    }, picture, this.overlay, this.crosshair.element);
    this.caption = build("div", { className: "caption", "aria-hidden": "true" });
    this.list = build("ol", { className: "sources", "aria-label": "Sources, largest share first" });
    this.describe(-1);
    this.load();
  }

  async load() {
    try {
      this.sources = await loadSources(this.image);
      this.fillList();
      this.map = await loadMap(this.image, this.sources);
      this.rest();
      this.stage.dataset.ready = "yes";
    } catch (problem) {
      const place = build("li", { className: "problem" });
      this.list.replaceChildren(place);
      showProblem(place, problem, () => this.load());
    }
  }

  fillList() {
    const largest = this.sources[0]?.share || 1;
    this.rows = this.sources.map((source) => row(source, largest));
    this.rows.forEach((button, index) => {
      const point = () => this.show(index, FROM_LIST);
      button.addEventListener("pointerenter", (event) => { if (this.hasMoved(event)) point(); });
      button.addEventListener("focus", point);
      button.addEventListener("pointerleave", () => this.rest());
      button.addEventListener("blur", () => this.rest());
      button.addEventListener("click", () => this.keep(index));
    });
    this.list.replaceChildren(...this.rows.map((button) => build("li", {}, button)));
    walkable(this.list);
  }

  /** Whether a pointer has come to another place: a list that keys scroll passes under one that rests. */
  hasMoved({ clientX, clientY }) {
    const [x, y] = this.pointer ?? [];
    this.pointer = [clientX, clientY];
    return x !== clientX || y !== clientY;
  }

  /** Lights the places of a source and names it; -1 shows the cover as it is. */
  show(index, strength) {
    this.shown = index;
    if (this.map) light(this.overlay, this.map, this.map.holds(index) ? index : -1, strength);
    this.rows.forEach((button, at) => button.classList.toggle("lit", at === index));
    this.describe(index);
  }

  describe(index) {
    const source = this.sources[index];
    this.caption.classList.toggle("empty", !source);
    if (!source) {
      this.caption.replaceChildren(hint());
      return;
    }
    const places = !this.map || this.map.holds(index);
    const region = places ? `largest connected part ${percent(source.largest_region)}` : "blended in, it leads at no place";
    this.caption.replaceChildren(...describeSource(source),
      build("span", { className: "caption-share" }, build("b", {}, percent(source.share)), build("span", { className: "caption-of" }, " of this cover"), build("span", { className: "soft" }, region)));
  }

  /** What is lit while nothing is pointed at: the place of the keys, the source that was kept, or nothing. */
  rest() {
    if (!this.crosshair.element.hidden) {
      this.show(this.atCrosshair(), FROM_COVER);
      return;
    }
    const focused = this.rows.findIndex((button) => button.matches(":focus-visible"));
    this.show(focused >= 0 ? focused : this.kept, FROM_LIST);
  }

  keep(index) {
    this.kept = this.kept === index ? -1 : index;
    this.rows.forEach((button, at) => button.setAttribute("aria-pressed", String(at === this.kept)));
    this.show(this.kept >= 0 || hovers() ? index : -1, FROM_LIST); // a finger that has left points at nothing
    const button = this.rows[this.kept];
    if (button) this.list.scrollTop = button.offsetTop - (this.list.clientHeight - button.offsetHeight) / 2;
  }

  holderAt(event) {
    const box = this.stage.getBoundingClientRect();
    return this.map ? this.map.at((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height) : -1;
  }

  atCrosshair() {
    return this.map ? this.map.at(this.crosshair.x, this.crosshair.y) : -1;
  }

  pointAt(event) {
    if (event.pointerType === "touch") return; // a tap keeps, see click
    this.crosshair.hide();
    const index = this.holderAt(event);
    if (index !== this.shown) this.show(index, FROM_COVER);
  }

  keepAt(event) {
    const index = this.holderAt(event);
    if (index >= 0) this.keep(index);
  }

  onFocus() {
    if (!this.stage.matches(":focus-visible")) return;
    this.crosshair.show();
    this.show(this.atCrosshair(), FROM_COVER);
    this.speakSoon();
  }

  onBlur() {
    clearTimeout(this.timer);
    this.crosshair.hide();
    this.spoken = -1;
    this.rest();
  }

  onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (this.atCrosshair() >= 0) this.keep(this.atCrosshair());
      announce(this.kept >= 0 ? "Kept lit" : "No longer kept");
    } else if (this.crosshair.move(event)) {
      event.preventDefault();
      this.crosshair.show();
      this.show(this.atCrosshair(), FROM_COVER);
      this.speakSoon();
    }
  }

  /** Names the source once the keys rest, and only where it is another one than before. */
  speakSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      if (this.shown === this.spoken) return;
      this.spoken = this.shown;
      const source = this.sources[this.shown];
      if (!source) return;
      const { title, artist } = words(source);
      announce(`${title} by ${artist}, ${percent(source.share)} of this cover`);
    }, REST_MS);
  }
}

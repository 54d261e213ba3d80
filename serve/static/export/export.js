/** @module A new cover for a store: title and artist on it, how it looks small, what was checked, and the file. */

import { call, saveBlob } from "/static/api/requests.js";
import { artist, rememberArtist } from "/static/covers/collection.js";
import { announce, build, megabytes } from "/static/document/dom.js";
import { clearProblem, showProblem } from "/static/document/problems.js";
import { filesOf } from "/static/export/archive.js";
import { atSixtyFour, inAList } from "/static/export/player.js";
import { openDialog } from "/static/viewer/dialog.js";

const PROFILES = [["spotify", "Spotify"], ["apple", "Apple Music"], ["distrokid", "DistroKid"], ["bandcamp", "Bandcamp"],
  ["social-9x16", "Story, 9:16"], ["social-16x9", "Wide, 16:9"]];
const LAYOUTS = [["auto", "The most legible"], ["corner", "In a corner"], ["band", "In a band"], ["poster", "As a poster"]];
const REST_MS = 700;
const NOT_CHECKED = "No program can check: your rights to all that is on it, that it shows nothing a store refuses (logos, prices, hate, nudity), that it is sharp, and that no other release has the same cover.";

const counted = (checks) => `${checks.length} ${checks.length === 1 ? "check" : "checks"}`;
const field = (label, control, ...rest) => build("div", { className: "setting" }, build("label", { htmlFor: control.id }, label), control, ...rest);
const choice = (id, options) => build("select", { id }, ...options.map(([value, name]) => build("option", { value }, name)));

/** The parts of the dialog that export one cover. */
class Export {
  constructor(cover) {
    Object.assign(this, { cover, abort: null, timer: 0, address: null, made: null });
    this.profile = choice("export-profile", PROFILES);
    this.title = build("input", { id: "export-name", type: "text", maxLength: 300, autocomplete: "off", value: cover.song.name });
    this.artist = build("input", { id: "export-artist", type: "text", maxLength: 300, autocomplete: "off", value: cover.song.artist ?? artist() });
    this.letters = build("input", { id: "export-letters", type: "checkbox", checked: true });
    this.layout = choice("export-layout", LAYOUTS);
    this.problem = build("div", { className: "problem", role: "alert", hidden: true });
    this.stage = build("div", { className: "export-stage", "aria-busy": "true" });
    this.small = build("div", { className: "export-small" });
    this.checks = build("div", { className: "checks" });
    this.saves = ["Save the picture", "Save with sources and checks"].map((name, at) => build("button", {
      type: "button", className: at ? "button quiet" : "button", disabled: true, on: { click: () => this.save(at === 1) } }, name));
  }

  form() {
    const form = build("form", { className: "export-form", "aria-label": "What to export" },
      field("For", this.profile), field("Title", this.title), field("Artist", this.artist),
      build("div", { className: "check" }, this.letters, build("label", { htmlFor: this.letters.id }, "Title and artist on the picture")),
      field("Placed", this.layout));
    form.addEventListener("submit", (event) => { event.preventDefault(); this.make(); });
    form.addEventListener("input", () => this.changed());
    return form;
  }

  /** What was made is of before; another is made once the fields rest. */
  changed() {
    this.layout.disabled = !this.letters.checked;
    this.forget();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.make(), REST_MS);
  }

  forget() {
    this.abort?.abort();
    this.made = null;
    this.stage.setAttribute("aria-busy", "true");
    for (const button of this.saves) button.disabled = true;
  }

  request() {
    const [title, by] = [this.title.value.trim(), this.artist.value.trim()];
    return { profile: this.profile.value, answer: "zip", letters: this.letters.checked, layout: this.layout.value, ...(title && { title }), ...(by && { artist: by }) };
  }

  async make() {
    clearTimeout(this.timer);
    this.forget();
    clearProblem(this.problem);
    const { signal } = this.abort = new AbortController();
    const request = this.request();
    try {
      const response = await call(`${this.cover.image.url}/export`, {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(request), signal });
      const buffer = await response.arrayBuffer();
      if (!signal.aborted) this.show(request, buffer);
    } catch (problem) {
      if (problem.name === "AbortError") return;
      this.stage.setAttribute("aria-busy", "false");
      this.refuse(problem);
    }
  }

  show(request, buffer) {
    const [[name, picture], [, facts]] = [...filesOf(buffer)];
    const [sidecar, type] = [JSON.parse(new TextDecoder().decode(facts)), name.endsWith(".png") ? "image/png" : "image/jpeg"];
    this.made = { name, picture: new Blob([picture], { type }), zip: new Blob([buffer], { type: "application/zip" }) };
    if (this.address) URL.revokeObjectURL(this.address);
    this.address = URL.createObjectURL(this.made.picture);
    const words = [request.title, request.artist && `by ${request.artist}`].filter(Boolean).join(" ");
    this.stage.replaceChildren(build("img", { src: this.address, alt: `The cover for ${this.profile.selectedOptions[0].text}${request.letters && words ? `, with: ${words}` : ""}` }));
    this.stage.setAttribute("aria-busy", "false");
    this.showSmall(request, sidecar);
    this.checks.replaceChildren(...this.checked(sidecar));
    for (const button of this.saves) button.disabled = false;
    announce(`Ready: ${counted(sidecar.preflight)} passed`);
  }

  showSmall({ title = "Untitled", artist: by = "" }, { size: [width, height] }) {
    const square = width === height;
    this.small.hidden = !square;
    if (!square) return;
    this.small.replaceChildren(
      build("figure", {}, atSixtyFour(this.address), build("figcaption", { className: "soft" }, "64 pixels")),
      inAList(this.address, { title, artist: by }, this.cover.job.matches.slice(0, 2)));
  }

  checked({ size, format, bytes, enlarged, lettering, preflight: found, content_credentials: signed }) {
    const facts = [`${size.join(" \u00d7 ")} pixels, ${format.toUpperCase()}, ${megabytes(bytes)}`,
      enlarged && `enlarged ${enlarged.factor.toFixed(1)} times from ${enlarged.from[0]}`,
      lettering && `set in ${lettering.font}`, signed && "signed with content credentials"].filter(Boolean).join(", ");
    return [build("p", {}, `${facts}.`),
      build("details", {}, build("summary", {}, `${counted(found)} passed`), build("ul", { className: "check-list" },
        ...found.map((one) => build("li", {}, build("b", {}, one.rule), `: ${one.found}`, build("span", { className: "soft" }, ` (allowed: ${one.allowed})`))))),
      build("p", { className: "soft" }, NOT_CHECKED)];
  }

  /** A preflight names every rule that is broken in one text; each gets its line. */
  refuse(problem) {
    this.checks.replaceChildren();
    showProblem(this.problem, problem, () => this.make());
    if (problem.code !== "preflight_failed") return;
    this.problem.replaceChildren(build("p", { className: "problem-title" }, "It does not keep the rules of this destination"),
      build("ul", { className: "check-list" }, ...problem.message.split("; ").map((rule) => build("li", {}, rule))));
  }

  save(whole) {
    const { name, picture, zip } = this.made;
    const file = whole ? name.replace(/\.\w+$/, ".zip") : name;
    saveBlob(whole ? zip : picture, file);
    rememberArtist(this.artist.value.trim());
    announce(`${file} saved`);
  }
}

/**
 * Opens the export of a cover.
 * @param {{job: Object, image: Object, song: {name: string, artist: string|null}}} cover
 * @param {() => void} back  shows the cover again
 */
export function openExport(cover, back) {
  const view = new Export(cover);
  openDialog({ layout: "export" },
    build("div", { className: "export-preview" }, view.stage, view.small),
    build("div", { className: "viewer-side" },
      build("h2", { id: "viewer-title" }, "Export for stores"), view.form(), view.problem,
      build("div", { className: "row" }, ...view.saves), view.checks,
      build("p", { className: "soft" }, "The file says that a program generated it. Where a store asks whether artwork was made with AI, say yes."),
      build("button", { type: "button", className: "plain", on: { click: back } }, "Back to the cover")));
  view.make();
}

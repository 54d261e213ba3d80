/** @module The settings of new covers: how mixed, which size, which seed; the release and the limits of the server decide what there is to set. */

import { build, byId } from "/static/document/dom.js";

const SIZES = [256, 512, 1024];
const DEFAULT_SIZE = 512;
const STEP = 0.01;
const FALLBACK = { size_min: SIZES[0], size_max: SIZES.at(-1) };
const novelty = byId("novelty");
const seed = byId("seed");
let usual = null;
let touched = false;

const drawNumber = () => String(crypto.getRandomValues(new Uint32Array(1))[0]);

function noveltyWords() {
  const value = Number(novelty.value);
  const number = value.toFixed(2);
  if (!touched) return `${usual.toFixed(2)}, the default of this release`;
  return `${number}, ${value > usual ? "more mixed than" : "closer to single covers than"} the default (${usual.toFixed(2)})`;
}

function describeNovelty() {
  byId("novelty-words").textContent = noveltyWords();
  novelty.setAttribute("aria-valuetext", noveltyWords());
  byId("novelty-default").hidden = !touched;
}

function useDefault() {
  touched = false;
  novelty.value = String(usual); // the nearest that the slider can stand at
  describeNovelty();
}

/** Where the slider stands at the default, the default itself is asked for, which may lie between two of its steps. */
function follow() {
  touched = Math.abs(Number(novelty.value) - usual) >= STEP / 2;
  describeNovelty();
}

/** Offers what this release and this server allow, at their defaults. */
export function offerSettings(release, limits) {
  const { size_min: least, size_max: most } = limits ?? FALLBACK;
  const sizes = SIZES.filter((size) => size >= least && size <= most);
  const size = sizes.includes(DEFAULT_SIZE) ? DEFAULT_SIZE : sizes.at(-1);
  byId("size").replaceChildren(...sizes.map((pixels) =>
    build("option", { value: String(pixels), selected: pixels === size }, `${pixels} pixels a side`)));
  byId("size-setting").hidden = sizes.length === 0;
  usual = release?.novelty ?? null;
  byId("novelty-setting").hidden = usual === null;
  if (usual === null) return;
  novelty.step = String(STEP);
  byId("novelty-setting").style.setProperty("--usual", String(usual));
  useDefault();
}

/** @returns {string} the seed that is set, or an empty text */
export const setSeed = () => seed.value.trim();

/** @returns {string} the seed that is set, else a random one */
export const takeSeed = () => setSeed() || drawNumber();

/** @returns {string} a key under which the server knows a repeated request */
export const drawKey = () => `page-${drawNumber()}-${drawNumber()}`;

/** Puts a seed into its field; an empty text means a random one. */
export function putSeed(text, focus = false) {
  seed.value = text;
  seed.dispatchEvent(new Event("input"));
  if (focus) seed.focus();
}

/** Adds what is set to a request; what was left alone is left to the server. */
export function addSettings(form) {
  if (byId("size").value) form.append("size", byId("size").value);
  if (usual !== null && touched) form.append("novelty", novelty.value);
}

/** Follows the fields. @param {() => void} onSeed  called when the seed changes */
export function readySettings(onSeed) {
  novelty.addEventListener("input", follow);
  byId("novelty-default").addEventListener("click", () => { useDefault(); novelty.focus(); });
  seed.addEventListener("input", onSeed);
}

/** @module The page from end to end: a song comes in, the sleeve opens. Each other module knows its own part only. */

import { currentLimits, currentRelease, onUnauthorized, Problem, upload } from "/static/api.js";
import { drawDisc } from "/static/disc.js";
import { announce, build, byId, clock, inWords, megabytes, prefersCalm } from "/static/dom.js";
import { credit, offer } from "/static/examples.js";
import * as generate from "/static/generate.js";
import { readyMatches, showMatches } from "/static/matches.js";
import * as player from "/static/player.js";
import { clearProblem, showProblem } from "/static/problems.js";
import { openMatch } from "/static/viewer.js";

const MATCHES = 100;
const FORMATS = "MP3, FLAC, WAV, Ogg, Opus, M4A.";
let release = null;
let limits = null;
let search = null;

const nameOf = (song, example) => example?.title ?? (song.name.replace(/\.[^.]+$/, "").replaceAll("_", " ") || "Your song");

/** What the server takes, in its own numbers; where it does not say, nothing is claimed. */
function limitWords() {
  if (!limits) return FORMATS;
  return `Up to ${inWords(limits.upload_max_duration_s)} long and ${megabytes(limits.upload_max_bytes)}. ${FORMATS}`;
}

async function loadRelease() {
  [release, limits] = await Promise.all([currentRelease(), currentLimits()]);
  byId("limits").textContent = limitWords();
  byId("release").textContent = release ? `${release.covers.toLocaleString("en")} covers, release ${release.version}` : "";
}

function refuseTooLarge(song) {
  if (!limits || song.size <= limits.upload_max_bytes) return;
  const detail = `${song.name} has ${megabytes(song.size)}; at most ${megabytes(limits.upload_max_bytes)} are taken. Send it as MP3 or FLAC.`;
  throw new Problem({ status: 413, title: "The file is too large", detail, code: "upload_too_large" });
}

function searching(on, name = "") {
  byId("searching").hidden = !on;
  byId("searching-name").textContent = name;
  byId("closed").classList.toggle("busy", on);
}

function onSent(share) {
  const bar = byId("searching-progress");
  if (share < 1) bar.value = share;
  else bar.removeAttribute("value");
  byId("searching-state").textContent = share < 1 ? "Sending" : "Searching";
}

/** Takes a song in: plays, searches, opens the sleeve, or says why not. */
async function choose(song, example = null) {
  search?.abort();
  search = new AbortController();
  clearProblem(byId("search-problem"));
  close();
  player.load(song);
  searching(true, nameOf(song, example));
  byId("searching-stop").focus();
  announce(`Searching covers for ${nameOf(song, example)}`);
  try {
    refuseTooLarge(song);
    const found = await upload("/v1/searches", () => searchForm(song), { onSent, signal: search.signal });
    if (release?.version !== found.release) await loadRelease(); // another took over; behind a key, it is read only now
    open(song, example, found);
  } catch (problem) {
    searching(false);
    if (problem.name !== "AbortError") showProblem(byId("search-problem"), problem, problem.passes ? () => choose(song, example) : null);
    byId("file").focus();
  }
}

function searchForm(song) {
  const form = new FormData();
  form.append("song", song, song.name);
  form.append("k", String(Math.min(MATCHES, limits?.k_max ?? MATCHES)));
  form.append("spectrogram", "true");
  return form;
}

function open(song, example, found) {
  searching(false);
  byId("closed").hidden = true;
  byId("spread").hidden = false;
  byId("spread").classList.toggle("opening", !prefersCalm());
  showSong(nameOf(song, example), example, found.song);
  showMatches(found.matches, release, openMatch);
  generate.startFor(song, found.matches, release, limits);
  byId("song-title").focus({ preventScroll: true });
  scrollTo({ top: 0 });
  announce(`The sleeve is open: ${found.matches.length} covers found.`);
}

function showSong(name, example, view) {
  byId("song-title").textContent = name;
  byId("spine-text").textContent = name;
  document.title = `${name}: gatefold`;
  byId("song-credit").hidden = !example;
  byId("song-credit").textContent = example ? credit(example) : "";
  byId("song-facts").textContent = songWords(view);
  byId("starts").replaceChildren(...view.window_starts_s.map((start) => build("span", {}, clock(Math.round(start)))));
  showWindows(view);
  showSpectrogram(view.spectrogram);
}

function songWords(view) {
  const count = view.window_starts_s.length;
  const each = release ? ` of ${release.audio.window_s.toFixed(1)} s` : "";
  return `${inWords(view.duration_s)} long. Encoded: ${count === 1 ? "one window" : `${count} windows`}${each}.`;
}

/** Marks on the time line which windows of the song were encoded. */
function showWindows(view) {
  const length = release?.audio.window_s ?? 1;
  byId("windows").replaceChildren(...view.window_starts_s.map((start) => {
    const mark = build("span");
    mark.style.left = `${(100 * start) / view.duration_s}%`;
    mark.style.width = `${100 * Math.min(length / view.duration_s, 1 - start / view.duration_s)}%`;
    return mark;
  }));
}

async function showSpectrogram(address) {
  const picture = byId("spectrogram-picture");
  drawDisc(byId("disc"), null);
  byId("spectrogram").hidden = !address;
  if (!address) return;
  picture.src = address;
  await picture.decode();
  drawDisc(byId("disc"), picture);
}

function close() {
  byId("spread").hidden = true;
  byId("generate").hidden = true;
  byId("closed").hidden = false;
}

function wireFile() {
  const input = byId("file");
  const take = (files) => files.length && choose(files[0]);
  input.addEventListener("change", () => { take([...input.files]); input.value = ""; });
  byId("searching-stop").addEventListener("click", () => search.abort());
  byId("another").addEventListener("click", () => {
    player.pause();
    close();
    input.focus();
  });
  let depth = 0;
  const mark = (change) => { depth += change; document.body.classList.toggle("dragging", depth > 0); };
  addEventListener("dragenter", () => mark(1));
  addEventListener("dragleave", () => mark(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => { event.preventDefault(); mark(-depth); take([...event.dataTransfer.files]); });
}

function wireKey() {
  const dialog = byId("key");
  onUnauthorized((detail) => new Promise((resolve) => {
    byId("key-detail").textContent = detail;
    byId("key-input").value = "";
    dialog.returnValue = "";
    dialog.onclose = () => resolve(dialog.returnValue === "use" ? byId("key-input").value.trim() : null);
    dialog.showModal();
    byId("key-input").focus();
  }));
}

byId("song").addEventListener("animationend", () => byId("spread").classList.remove("opening"));
wireFile();
wireKey();
player.ready();
readyMatches();
generate.ready();
loadRelease();
offer(choose, (problem) => showProblem(byId("search-problem"), problem));

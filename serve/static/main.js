/** @module The page from end to end: a song comes in, the sleeve opens. Each other module knows its own part only. */

import { currentRelease, onUnauthorized, upload } from "/static/api.js";
import { press } from "/static/disc.js";
import { announce, build, byId, clock, inWords, prefersCalm } from "/static/dom.js";
import { credit, offer } from "/static/examples.js";
import { showHundred } from "/static/hundred.js";
import * as making from "/static/making.js";
import * as player from "/static/player.js";
import { clearProblem, showProblem } from "/static/problems.js";
import { openMatch } from "/static/viewer.js";

const NEIGHBOURS = 100;
let release = null;
let search = null;

const nameOf = (song, example) => example?.title ?? (song.name.replace(/\.[^.]+$/, "").replaceAll("_", " ") || "Your song");

async function loadRelease() {
  release = await currentRelease();
  const formats = "MP3, FLAC, WAV, Ogg, Opus, M4A.";
  if (!release) {
    byId("limits").textContent = formats;
    return;
  }
  const { min_duration_s: least, max_duration_s: most } = release.audio;
  byId("limits").textContent = `From ${inWords(least)} to ${inWords(most)} long. ${formats}`;
  byId("release").textContent = `${release.covers.toLocaleString("en")} covers, release ${release.version}`;
}

function listening(on, name = "") {
  byId("listening").hidden = !on;
  byId("listening-name").textContent = name;
  byId("closed").classList.toggle("busy", on);
}

function onSent(share) {
  const bar = byId("listening-progress");
  if (share < 1) bar.value = share;
  else bar.removeAttribute("value");
  byId("listening-state").textContent = share < 1 ? "Sending" : "Listening";
}

/** Takes a song in: plays, searches, opens the sleeve, or says why not. */
async function choose(song, example = null) {
  search?.abort();
  search = new AbortController();
  clearProblem(byId("search-problem"));
  close();
  player.load(song);
  listening(true, nameOf(song, example));
  byId("listening-stop").focus();
  announce(`Listening to ${nameOf(song, example)}`);
  try {
    const found = await upload("/v1/searches", () => searchForm(song), { onSent, signal: search.signal });
    if (!release) await loadRelease(); // behind a key, it can be read only now
    open(song, example, found);
  } catch (problem) {
    listening(false);
    if (problem.name !== "AbortError") showProblem(byId("search-problem"), problem, problem.passes ? () => choose(song, example) : null);
    byId("file").focus();
  }
}

function searchForm(song) {
  const form = new FormData();
  form.append("song", song, song.name);
  form.append("k", String(NEIGHBOURS));
  form.append("spectrogram", "true");
  return form;
}

function open(song, example, found) {
  listening(false);
  byId("closed").hidden = true;
  byId("spread").hidden = false;
  byId("spread").classList.toggle("opening", !prefersCalm());
  showSong(nameOf(song, example), example, found.song);
  showHundred(found.matches, release, openMatch);
  making.startFor(song);
  byId("song-title").focus({ preventScroll: true });
  scrollTo({ top: 0 });
  announce(`The sleeve is open: ${found.matches.length} covers found.`);
}

function showSong(name, example, heard) {
  byId("song-title").textContent = name;
  byId("spine-text").textContent = name;
  document.title = `${name}: gatefold`;
  byId("song-credit").hidden = !example;
  byId("song-credit").textContent = example ? credit(example) : "";
  byId("heard").textContent = heardWords(heard);
  byId("starts").replaceChildren(...heard.window_starts_s.map((start) => build("span", {}, clock(Math.round(start)))));
  showWindows(heard);
  showSpectrogram(heard.spectrogram);
}

function heardWords(heard) {
  const count = heard.window_starts_s.length;
  const each = release ? ` of ${release.audio.window_s.toFixed(1)} s` : "";
  return `${inWords(heard.duration_s)} long. Heard: ${count === 1 ? "one stretch" : `${count} stretches`}${each}.`;
}

/** Marks on the groove which stretches of the song were heard. */
function showWindows(heard) {
  const length = release?.audio.window_s ?? 1;
  byId("windows").replaceChildren(...heard.window_starts_s.map((start) => {
    const mark = build("span");
    mark.style.left = `${(100 * start) / heard.duration_s}%`;
    mark.style.width = `${100 * Math.min(length / heard.duration_s, 1 - start / heard.duration_s)}%`;
    return mark;
  }));
}

async function showSpectrogram(address) {
  const picture = byId("spectrogram-picture");
  press(byId("disc"), null);
  byId("spectrogram").hidden = !address;
  if (!address) return;
  picture.src = address;
  await picture.decode();
  press(byId("disc"), picture);
}

function close() {
  byId("spread").hidden = true;
  byId("making").hidden = true;
  byId("closed").hidden = false;
}

function wireFile() {
  const input = byId("file");
  const take = (files) => files.length && choose(files[0]);
  input.addEventListener("change", () => { take([...input.files]); input.value = ""; });
  byId("listening-stop").addEventListener("click", () => search.abort());
  byId("another").addEventListener("click", () => {
    player.hush();
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
making.ready();
loadRelease();
offer(choose, (problem) => showProblem(byId("search-problem"), problem));

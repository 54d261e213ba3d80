/** @module The page from end to end: a song comes in, the sleeve opens; a link to covers opens it too. Each other module knows its own part only. */

import { call, currentKey, forgetKey, onKey, onUnauthorized, Problem, upload } from "/static/api/requests.js";
import { loadServer, theLimits, theRelease } from "/static/api/server.js";
import { forgetJob, nameOf as rememberedName } from "/static/covers/collection.js";
import { readyComparison } from "/static/covers/comparison.js";
import { readyFavourites } from "/static/covers/favourite.js";
import * as generate from "/static/covers/generate.js";
import { readyShare } from "/static/covers/share.js";
import { readyShelf } from "/static/covers/shelf.js";
import { announce, bringUp, byId, countWord, inWords, megabytes, prefersCalm } from "/static/document/dom.js";
import { clearProblem, showProblem } from "/static/document/problems.js";
import { readyMatches, showMatches } from "/static/matches/matches.js";
import { offer } from "/static/song/examples.js";
import * as player from "/static/song/player.js";
import { showMade, showSong } from "/static/song/song.js";
import { closeDialog } from "/static/viewer/dialog.js";
import { openMatch } from "/static/viewer/viewer.js";

const MATCHES = 100;
const FORMATS = "MP3, FLAC, WAV, Ogg, Opus, M4A.";
const COVERS_PATH = /^\/covers\/([^/]+)$/;
let search = null;
let shown = "/"; // the path whose contents are on the page

const nameOf = (song, example) => example?.title ?? (song.name.replace(/\.[^.]+$/, "").replaceAll("_", " ") || "Your song");

/** What the server takes, in its own numbers; where it does not say, nothing is claimed. */
function limitWords() {
  const limits = theLimits();
  if (!limits) return FORMATS;
  return `Up to ${inWords(limits.upload_max_duration_s)} long and ${megabytes(limits.upload_max_bytes)}. ${FORMATS}`;
}

async function describeServer() {
  await loadServer();
  const [release, limits] = [theRelease(), theLimits()];
  byId("limits").textContent = limitWords();
  byId("release").textContent = release ? `${release.covers.toLocaleString("en")} covers, release ${release.version}` : "";
  byId("lead-matches").textContent = release && limits ? `${countWord(Math.min(MATCHES, limits.k_max, release.covers))} album covers` : "album covers";
  byId("kept-words").textContent = limits ? `The covers are kept for ${inWords(limits.results_kept_s)}, then deleted.` : "The covers are deleted after a while.";
}

function refuseTooLarge(song) {
  const limits = theLimits();
  if (!limits || song.size <= limits.upload_max_bytes) return;
  const detail = `${song.name} has ${megabytes(song.size)}; at most ${megabytes(limits.upload_max_bytes)} are taken. Send it as MP3 or FLAC.`;
  throw new Problem({ status: 413, title: "The file is too large", detail, code: "upload_too_large" });
}

function searching(on, name = "", playable = false) {
  byId("searching").hidden = !on;
  byId("searching-play").hidden = !playable;
  byId("searching-name").textContent = name;
  byId("closed").classList.toggle("busy", on);
}

function onSent(share) {
  const bar = byId("searching-progress");
  if (share < 1) bar.value = share;
  else bar.removeAttribute("value");
  byId("searching-state").textContent = share < 1 ? "Sending" : "Reading the song";
}

/** Takes a song in: searches, opens the sleeve, begins new covers, or says why not. */
async function choose(song, example = null) {
  goHome();
  const { signal } = search = new AbortController();
  player.load(song);
  searching(true, nameOf(song, example), true);
  byId("searching-stop").focus();
  announce(`Searching covers for ${nameOf(song, example)}`);
  try {
    refuseTooLarge(song);
    const found = await upload("/v1/searches", () => searchForm(song), { onSent, signal });
    if (theRelease()?.version !== found.release) await describeServer(); // another took over; behind a key, it is read only now
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
  form.append("k", String(Math.min(MATCHES, theLimits()?.k_max ?? MATCHES)));
  form.append("spectrogram", "true");
  return form;
}

function openSleeve() {
  searching(false);
  byId("closed").hidden = true;
  byId("spread").hidden = byId("direction").hidden = false;
  byId("spread").classList.toggle("opening", !prefersCalm());
  byId("song-title").focus({ preventScroll: true });
  scrollTo({ top: 0, behavior: "instant" });
}

function open(song, example, found) {
  const about = { name: nameOf(song, example), artist: example?.artist ?? null };
  openSleeve();
  showSong(about.name, example, found.song);
  showMatches(found.matches, theRelease(), openMatch);
  generate.startFor(song, about, found.matches, theRelease(), theLimits());
  announce(`The sleeve is open: ${found.matches.length} covers found. New ones are being made.`);
}

/** Shows the covers of a job by its address. */
async function openJob(jobId, name) {
  const { signal } = search = new AbortController();
  searching(true, name || "Covers by a link");
  byId("searching-state").textContent = "Looking for";
  byId("searching-progress").removeAttribute("value");
  try {
    const job = await (await call(`/v1/covers/${encodeURIComponent(jobId)}`, { signal })).json();
    if (signal.aborted) return;
    openSleeve();
    showMade(name, job);
    showMatches(job.matches, theRelease(), openMatch);
    generate.showJob(job, { name, artist: null });
  } catch (problem) {
    if (signal.aborted) return;
    searching(false);
    if (problem.status === 404 && !currentKey()) forgetJob(jobId);
    showProblem(byId("search-problem"), problem.status === 404 ? goneProblem(problem) : problem, problem.status === 404 ? null : () => openJob(jobId, name));
  }
}

function goneProblem(problem) {
  const detail = currentKey() ? "They may have been deleted after their time, or belong to another key than the one used here." : "They may have been deleted after their time. Choose the song again to make new ones.";
  return new Problem({ ...problem, title: "These covers are not here", detail });
}

/** Closes the sleeve and whatever is open over it. */
function close() {
  search?.abort();
  generate.leave();
  closeDialog();
  player.pause();
  searching(false);
  clearProblem(byId("search-problem"));
  byId("spread").hidden = byId("direction").hidden = byId("earlier").hidden = true;
  byId("closed").hidden = false;
  document.title = "gatefold: a sleeve for your song";
}

function goHome() {
  close();
  if (location.pathname !== "/") history.pushState(null, "", "/");
  shown = "/";
}

/** Shows what the address names; a change of what stands after its # alone changes nothing. */
function route() {
  if (shown === location.pathname) return;
  const at = COVERS_PATH.exec(location.pathname);
  shown = location.pathname;
  close();
  if (at) openJob(decoded(at[1]) || at[1], rememberedName(at[1]) || decoded(location.hash.slice(1)).slice(0, 120));
}

/** The text that a part of the address stands for; none for one that this page has not written. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return "";
  }
}

function wireFile() {
  const input = byId("file");
  const take = (files) => files.length && choose(files[0]);
  input.addEventListener("change", () => { take([...input.files]); input.value = ""; });
  byId("searching-stop").addEventListener("click", () => { goHome(); input.focus(); });
  byId("another").addEventListener("click", () => {
    goHome();
    input.focus();
  });
  byId("steer").addEventListener("click", () => {
    bringUp(byId("direction"));
    byId("modes").querySelector("input:checked").focus({ preventScroll: true });
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
  const draw = () => { byId("forget-key").hidden = !currentKey(); };
  onKey(() => { draw(); describeServer(); });
  byId("forget-key").addEventListener("click", () => { forgetKey(); goHome(); });
  draw();
}

byId("song").addEventListener("animationend", () => byId("spread").classList.remove("opening"));
addEventListener("popstate", route);
wireFile();
wireKey();
player.ready();
readyMatches();
readyFavourites();
readyComparison();
readyShare();
readyShelf();
generate.ready((path) => { shown = path; });
describeServer();
route();
offer(choose, (problem) => showProblem(byId("search-problem"), problem));

/** @module The left side of the sleeve: the song with what was read of it, or, for covers that were made before, what is known of them. */

import { theRelease } from "/static/api/server.js";
import { build, byId, clock, dayAndTime, inWords } from "/static/document/dom.js";
import { drawDisc } from "/static/song/disc.js";
import { credit } from "/static/song/examples.js";

const OF_A_SONG = [".turntable", ".transport", ".encoded"];
const WIDE = "(min-width: 60.01rem)";

function showName(name, eyebrow) {
  byId("song-eyebrow").textContent = eyebrow;
  byId("song-title").textContent = name;
  byId("spine-text").textContent = name;
  document.title = `${name}: gatefold`;
}

/**
 * Shows a song.
 * @param {string} name
 * @param {Object|null} example  whose maker must be named
 * @param {Object} view  what the server encoded of it
 */
export function showSong(name, example, view) {
  showName(name, "Your song");
  for (const part of OF_A_SONG) byId("song").querySelector(part).hidden = false;
  byId("shared").hidden = true;
  byId("play-problem").hidden = true;
  byId("encoded").open = matchMedia(WIDE).matches;
  byId("song-credit").hidden = !example;
  byId("song-credit").textContent = example ? credit(example) : "";
  byId("song-facts").textContent = songWords(view);
  byId("starts").replaceChildren(...view.window_starts_s.map((start) => build("span", {}, clock(Math.round(start)))));
  showWindows(view);
  showSpectrogram(view.spectrogram);
}

function songWords(view) {
  const count = view.window_starts_s.length;
  const release = theRelease();
  const each = release ? ` of ${release.audio.window_s.toFixed(1)} s` : "";
  return `${inWords(view.duration_s)} long. Encoded: ${count === 1 ? "one window" : `${count} windows`}${each}.`;
}

/** Marks on the time line which windows of the song were encoded. */
function showWindows(view) {
  const length = theRelease()?.audio.window_s ?? 1;
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

/**
 * Shows what is known of covers that were made elsewhere, or before: not the song, which the server keeps no longer.
 * @param {string} name  of the song, where the link or this browser knows it
 * @param {Object} job
 */
export function showMade(name, job) {
  showName(name || "New covers", "Covers of a song");
  for (const part of OF_A_SONG) byId("song").querySelector(part).hidden = true;
  byId("play-problem").hidden = true;
  byId("song-credit").hidden = true;
  const lines = [
    `Begun ${dayAndTime(job.created_at)}, with release ${job.release}.`,
    job.expires_at ? `On the server until ${dayAndTime(job.expires_at)}. Save what you want to keep.` : "Being made now.",
    "The song itself is not kept. To make more covers from it, choose it again.",
  ];
  byId("shared").replaceChildren(...lines.map((line) => build("p", {}, line)));
  byId("shared").hidden = false;
}

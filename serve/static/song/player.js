/** @module The chosen song: play, pause, seek, and a disc that turns slowly while it plays. Sends nothing anywhere. */

import { announce, byId, clock, prefersCalm } from "/static/document/dom.js";

const TURN_S = 15;
const audio = byId("audio");
const buttons = [...document.querySelectorAll("[data-play]")];
const seek = byId("seek");
let address = null;

function draw() {
  const length = Number.isFinite(audio.duration) ? audio.duration : 0;
  seek.value = String(audio.currentTime);
  seek.setAttribute("aria-valuetext", `${clock(audio.currentTime)} of ${clock(length)}`);
  byId("clock").textContent = clock(audio.currentTime);
  if (!prefersCalm()) byId("disc").style.rotate = `${(360 * audio.currentTime) / TURN_S}deg`;
}

function turn() {
  draw();
  if (!audio.paused) requestAnimationFrame(turn);
}

function label() {
  for (const button of buttons) {
    button.textContent = audio.paused ? "Play" : "Pause";
    button.classList.toggle("playing", !audio.paused);
  }
}

/** Pauses the song. */
export const pause = () => audio.pause();

/**
 * Loads a song, paused.
 * @param {File} song
 */
export function load(song) {
  audio.pause();
  if (address) URL.revokeObjectURL(address);
  address = URL.createObjectURL(song);
  byId("play-problem").hidden = true;
  for (const button of buttons) button.disabled = false;
  audio.src = address;
}

function refuse() {
  if (!audio.getAttribute("src")) return;
  for (const button of buttons) button.disabled = true;
  byId("play-problem").hidden = false;
  byId("play-problem").textContent = "This browser cannot play this kind of file. The sleeve can still be made from it.";
}

/** Wires the buttons, the groove and the clock. */
export function ready() {
  for (const button of buttons) {
    button.addEventListener("click", () => (audio.paused ? audio.play().catch(refuse) : audio.pause()));
  }
  seek.addEventListener("input", () => { audio.currentTime = Number(seek.value); draw(); });
  audio.addEventListener("loadedmetadata", () => {
    seek.max = String(audio.duration);
    byId("length").textContent = clock(audio.duration);
    draw();
  });
  audio.addEventListener("play", () => { label(); turn(); announce("Playing"); });
  audio.addEventListener("pause", label);
  audio.addEventListener("timeupdate", draw);
  audio.addEventListener("error", refuse);
}

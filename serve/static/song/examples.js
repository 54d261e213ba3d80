/** @module The example songs: their makers' names, their licences, a preview before choosing. */

import { Problem, examples } from "/static/api/requests.js";
import { build, byId } from "/static/document/dom.js";
import { pause } from "/static/song/player.js";

const preview = byId("preview");
let playing = null;

function silence() {
  preview.pause();
  playing?.setAttribute("aria-pressed", "false");
  playing = null;
}

function togglePreview(button, example) {
  const again = playing === button;
  silence();
  if (again) return;
  pause();
  playing = button;
  button.setAttribute("aria-pressed", "true");
  preview.src = example.url;
  preview.play().catch(silence);
}

async function use(example, onSong, onProblem) {
  silence();
  try {
    const response = await fetch(example.url);
    if (!response.ok) throw new Problem({ status: response.status, detail: `${example.title} could not be fetched. Choose another.` });
    const song = new File([await response.blob()], example.file);
    onSong(song, example);
  } catch (problem) {
    onProblem(problem instanceof Problem ? problem : new Problem({ detail: "The example could not be fetched. Check the connection, then try again." }));
  }
}

function line(example, onSong, onProblem) {
  const previewButton = build("button", {
    type: "button", className: "preview", "aria-pressed": "false", "aria-label": `Listen to ${example.title}`,
    on: { click: (event) => togglePreview(event.currentTarget, example) },
  });
  const choose = build("button", { type: "button", className: "use-example", on: { click: () => use(example, onSong, onProblem) } },
    build("span", { className: "use-example-title" }, example.title),
    build("span", { className: "use-example-artist" }, `${example.artist}, ${example.genre}`));
  return build("li", {}, previewButton,
    build("div", {}, choose, build("p", { className: "licence" }, credit(example))));
}

/** @returns {string} attribution, with the licence once */
export function credit(example) {
  const licence = example.licence.replaceAll("-", " ");
  const named = example.attribution.replaceAll("-", " ").includes(licence.split(" ").slice(0, 2).join(" "));
  return named ? example.attribution : `${example.attribution}. ${licence}`;
}

/**
 * Fills the track list.
 * @param {(song: File, example: Object) => void} onSong
 * @param {(problem: Problem) => void} onProblem
 */
export async function offer(onSong, onProblem) {
  const songs = await examples();
  byId("tracklist").replaceChildren(...songs.map((example) => line(example, onSong, onProblem)));
  byId("examples").hidden = songs.length === 0;
  preview.addEventListener("ended", silence);
}

/** @module The dialog that shows pictures large: opens, keeps the focus where it was, closes. Knows nothing of what it shows. */

import { showPicture } from "/static/api/requests.js";
import { build, byId } from "/static/document/dom.js";

const dialog = byId("viewer");
const body = byId("viewer-body");

/** @returns {HTMLImageElement} a picture of the API, loaded at once */
export function largePicture(source, alt) {
  const image = build("img", { className: "viewer-picture", alt, draggable: false });
  showPicture(image, source);
  image.loading = "eager";
  return image;
}

/** @returns {HTMLElement} a button that closes the dialog */
export const closeButton = () => build("button", { type: "button", className: "viewer-close", "aria-label": "Close", on: { click: closeDialog } }, "\u00d7");

/** Closes the dialog; the browser gives the focus back to where it was. */
export function closeDialog() {
  dialog.close();
}

/** @param {() => void} listener  called each time that the dialog has closed */
export const onDialogClosed = (listener) => dialog.addEventListener("close", listener);

/**
 * Fills the dialog; where it was open, the focus stays on the button of the same name, so that one can go on through a set.
 * @param {{layout: string, onKey?: (event: KeyboardEvent) => void}} how  the class of its body, and what keys do
 * @param {...Node} children
 */
export function openDialog({ layout, onKey = null }, ...children) {
  const name = document.activeElement.getAttribute("aria-label");
  dialog.onkeydown = onKey;
  body.className = `viewer-body ${layout}`;
  body.replaceChildren(closeButton(), ...children);
  if (!dialog.open) dialog.showModal();
  else if (name) [...body.querySelectorAll("button")].find((button) => button.getAttribute("aria-label") === name)?.focus();
  if (!body.contains(document.activeElement)) body.querySelector("button").focus();
  dialog.scrollTop = 0;
}

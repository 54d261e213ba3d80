/** @module One way to walk a grid of buttons: one stop for Tab, arrows inside, whatever the columns. */

const middle = (element) => {
  const box = element.getBoundingClientRect();
  return { x: box.left + box.width / 2, y: box.top + box.height / 2, top: box.top, bottom: box.bottom };
};

/** The nearest item that lies wholly above (or below): tiles may have different sizes. */
function vertical(items, from, down) {
  const here = middle(from);
  const distance = (there) => Math.abs(there.y - here.y) * 4 + Math.abs(there.x - here.x);
  return items
    .map((item) => ({ item, place: middle(item) }))
    .filter(({ place }) => (down ? place.top >= here.bottom - 1 : place.bottom <= here.top + 1))
    .sort((a, b) => distance(a.place) - distance(b.place))[0]?.item;
}

function target(items, from, key) {
  const index = items.indexOf(from);
  if (key === "ArrowRight") return items[index + 1];
  if (key === "ArrowLeft") return items[index - 1];
  if (key === "Home") return items[0];
  if (key === "End") return items.at(-1);
  if (key === "ArrowDown" || key === "ArrowUp") return vertical(items, from, key === "ArrowDown");
  return undefined;
}

/**
 * Makes the buttons of a container one stop for Tab, walked with arrows, Home and End.
 * @param {HTMLElement} container
 */
export function walkable(container) {
  const items = () => [...container.querySelectorAll("button[data-tile]")];
  const settle = (chosen) => items().forEach((item) => { item.tabIndex = item === chosen ? 0 : -1; });
  settle(items()[0]);
  if (container.dataset.walkable) return;
  container.dataset.walkable = "yes";
  container.addEventListener("focusin", (event) => event.target.matches("[data-tile]") && settle(event.target));
  container.addEventListener("keydown", (event) => {
    if (!event.target.matches("[data-tile]") || event.altKey || event.ctrlKey || event.metaKey) return;
    const next = target(items(), event.target, event.key);
    if (event.key.startsWith("Arrow") || next) event.preventDefault();
    next?.focus();
  });
}

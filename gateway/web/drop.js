// Files that are dropped into a zone of the page. Beside it nothing happens to them: a browser would show the file in place of the page,
// and a call would be over.

export function wireDrop(page, zone, take) {
  const isOver = (on) => zone.classList.toggle("over", on);
  const isOurs = ({ target, dataTransfer }) =>
    [...(dataTransfer?.types ?? [])].includes("Files") && (zone.contains(target) || !target.closest?.("input[type=file]"));
  page.addEventListener("dragover", (event) => {
    if (!isOurs(event)) return;
    event.preventDefault();
    const inside = zone.contains(event.target);
    event.dataTransfer.dropEffect = inside ? "copy" : "none";
    isOver(inside);
  });
  page.addEventListener("dragleave", ({ relatedTarget }) => relatedTarget ?? isOver(false)); // out of the window
  page.addEventListener("drop", (event) => {
    isOver(false);
    if (!isOurs(event)) return;
    event.preventDefault();
    if (zone.contains(event.target)) take([...event.dataTransfer.files]);
  });
}

// Light, dark, or as the system has it. A plain script in the head: the page never flashes.
(() => {
  const CHOICES = ["auto", "light", "dark"];
  const root = document.documentElement;

  function remembered() {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null; // storage is switched off: the choice lasts as long as the page
    }
  }

  function apply(choice) {
    if (choice === "auto") delete root.dataset.theme;
    else root.dataset.theme = choice;
    const name = document.getElementById("theme-name");
    if (name) name.textContent = choice;
    dispatchEvent(new Event("themechange"));
  }

  let choice = CHOICES.includes(remembered()) ? remembered() : "auto";
  apply(choice);
  addEventListener("DOMContentLoaded", () => {
    apply(choice);
    document.getElementById("theme").addEventListener("click", () => {
      choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length];
      try {
        localStorage.setItem("theme", choice);
      } catch {
        // see above
      }
      apply(choice);
    });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => apply(choice));
})();

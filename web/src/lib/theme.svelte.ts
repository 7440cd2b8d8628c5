// Dark or light: what the system says, until the reader chooses.

type Theme = "dark" | "light";

const KEY = "herd-theme";
const system = matchMedia("(prefers-color-scheme: light)");

function chosen(): Theme | null {
  try {
    const kept = localStorage.getItem(KEY);
    return kept === "dark" || kept === "light" ? kept : null;
  } catch {
    return null; // storage may be switched off
  }
}

class Look {
  theme = $state<Theme>(chosen() ?? (system.matches ? "light" : "dark"));

  start(): void {
    this.#show();
    system.addEventListener("change", () => {
      if (!chosen()) this.#set(system.matches ? "light" : "dark");
    });
  }

  toggle(): void {
    const theme = this.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // then it holds until the page is closed
    }
    this.#set(theme);
  }

  #set(theme: Theme): void {
    this.theme = theme;
    this.#show();
  }

  #show(): void {
    document.documentElement.dataset.theme = this.theme;
  }
}

export const look = new Look();

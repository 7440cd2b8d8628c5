import { describe, expect, it } from "vitest";
import css from "../src/app.css?raw";

const LEAST = 4.5; // WCAG 2.2 AA, text of the usual size
const WORDS = ["text", "soft", "faint", "accent", "ok", "warn", "bad"];

type Colour = [number, number, number];

function theme(name: string): Record<string, string> {
  const block = css.slice(css.indexOf(`color-scheme: ${name};`)).split("}")[0]!;
  return Object.fromEntries(
    [...block.matchAll(/--([\w-]+): (#[0-9a-f]+);/g)].map((found) => [found[1], found[2]]),
  );
}

const part = (hex: string, at: number) => parseInt(hex.slice(at, at + 2), 16);

function over(hex: string, below: Colour): Colour {
  const alpha = hex.length > 7 ? part(hex, 7) / 255 : 1;
  return [1, 3, 5].map((at, i) => alpha * part(hex, at) + (1 - alpha) * below[i]!) as Colour;
}

function luminance(colour: Colour): number {
  const [r, g, b] = colour.map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r! + 0.7152 * g! + 0.0722 * b!;
}

function contrast(one: Colour, other: Colour): number {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light! + 0.05) / (dark! + 0.05);
}

describe.each(["dark", "light"])("%s", (name) => {
  const colours = theme(name);
  const black: Colour = [0, 0, 0];
  const grounds = ["bg", "panel"].map((name) => over(colours[name]!, black));

  it.each(WORDS)("%s can be read on the page and on panels", (word) => {
    for (const ground of grounds) {
      expect(contrast(over(colours[word]!, ground), ground)).toBeGreaterThanOrEqual(LEAST);
    }
  });

  it.each(["ok", "warn", "bad", "accent"])("%s can be read on its tag", (word) => {
    const chosen = over(colours["raised"]!, black); // the row under the pointer, or opened
    for (const ground of [grounds[1]!, chosen]) {
      const tag = over(colours[`${word}-soft`]!, ground);
      expect(contrast(over(colours[word]!, tag), tag)).toBeGreaterThanOrEqual(LEAST);
    }
  });
});

// The chosen appearance. Without a choice the preference of the system counts, in app.css.
import { keep, kept } from './store';

export type Theme = 'system' | 'light' | 'dark';

const isTheme = (word: string | null): word is Theme => word === 'light' || word === 'dark';

export function theme(): Theme {
  const chosen = kept('weir.theme');
  return isTheme(chosen) ? chosen : 'system';
}

export function showTheme(chosen: Theme): void {
  if (chosen === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
}

export function chooseTheme(chosen: Theme): void {
  keep('weir.theme', chosen === 'system' ? null : chosen);
  showTheme(chosen);
}

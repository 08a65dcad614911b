// The navigation. A narrow page has room for the main screens; the others are behind `More`.
import type { Session } from './model';
import { MAIN_SCREENS, permittedScreens, type ScreenName } from './permitted';
import { href } from './router';
import { t } from './text';

const ICONS: Record<ScreenName | 'more', string> = {
  overview: 'M3 11.5 12 4l9 7.5M6 10v9h12v-9',
  streamers: 'M4 5h16v6H4zM4 13h16v6H4zM7 8h.01M7 16h.01',
  streams: 'M4 6h16M4 12h16M4 18h10',
  events: 'M12 7v5l3 2M12 3a9 9 0 1 0 9 9',
  whatif: 'M8 9a4 4 0 1 1 6 3.5c-1.3.8-2 1.6-2 3M12 19h.01',
  layouter: 'M4 5h6v6H4zM14 13h6v6h-6zM10 8h4a3 3 0 0 1 3 3v2',
  agents: 'M12 20v-7M8 9a5.5 5.5 0 0 1 8 0M5 6a10 10 0 0 1 14 0M12 13h.01',
  tokens: 'M14 10a4 4 0 1 0-3.5 4L13 16.5h2v2h3v-3.5z',
  auth: 'M12 3l8 3v6c0 4.5-3.5 7.5-8 9-4.5-1.5-8-4.5-8-9V6z',
  balancers: 'M12 4v6M12 10l-7 6M12 10l7 6M12 10v6M5 19h.01M12 19h.01M19 19h.01',
  settings: 'M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4',
  more: 'M5 12h.01M12 12h.01M19 12h.01',
};

function Icon({ of }: { of: ScreenName | 'more' }) {
  return (
    <svg viewBox="0 0 24 24" width="20" height="20" aria-hidden="true">
      <path d={ICONS[of]} />
    </svg>
  );
}

const isMain = (name: ScreenName) => MAIN_SCREENS.includes(name);

export function Rail({ at, me }: { at: ScreenName | 'more'; me: Session }) {
  const names = permittedScreens(me);
  const isBehindMore = at === 'more' || !isMain(at);
  return (
    <nav class="rail" aria-label={t('nav.main')}>
      <a class="brand" href={location.pathname + '#/'}>
        <img src="icon.svg" width="24" height="24" alt="" />
        <b translate={false}>Weir</b>
      </a>
      {names.map((name) => (
        <a
          href={href(name)}
          class={isMain(name) ? undefined : 'behind-more'}
          aria-current={at === name ? 'page' : undefined}
        >
          <Icon of={name} />
          <span>{t(`nav.${name}`)}</span>
        </a>
      ))}
      {!names.every(isMain) && (
        <a class="more" href={href('more')} aria-current={isBehindMore ? 'page' : undefined}>
          <Icon of="more" />
          <span>{t('nav.more')}</span>
        </a>
      )}
    </nav>
  );
}

export function More({ me }: { me: Session }) {
  const names = permittedScreens(me).filter((name) => !isMain(name));
  return (
    <>
      <h1>{t('nav.more')}</h1>
      <ul class="screens">
        {names.map((name) => (
          <li>
            <a href={href(name)}>
              <Icon of={name} /> {t(`nav.${name}`)}
            </a>
          </li>
        ))}
      </ul>
    </>
  );
}

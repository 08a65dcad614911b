// All streams: the server searches, filters, sorts and pages; here are only the rows in view.
import { useMemo, useRef, useState } from 'preact/hooks';
import {
  FILTERS,
  matchingQuery,
  MOVING_FIELDS,
  streamsQuery,
  type StreamFilters,
} from '../filters';
import * as f from '../format';
import { useFreshRows, type RowsInView } from '../fresh_rows';
import { url } from '../json';
import { HEALTHS, type Facets, type Health, type StreamEntity } from '../model';
import { usePages, type PagedRows } from '../pages';
import { Choice, Failure, Given, Labels, Mark, shortHost, StreamerLink } from '../parts';
import { Time, Typed } from '../parts';
import { useQuery } from '../query';
import { go, href, type ScreenProps } from '../router';
import { Table, useNarrow, type Column } from '../table';
import { t } from '../text';
import { Bulk } from './bulk';
import { BulkMatching } from './bulk_all';
import { FirstStream, NoMatch } from './empty';
import { BITRATE, NAME, VIEWERS } from './stream_columns';
import { runWord } from './stream_status';

const IN_VIEW: RowsInView<'streams'> = {
  path: '/streams',
  collection: 'streams',
  by: 'name',
  select: MOVING_FIELDS,
  isAbout: (it) => it.entity_type === 'stream' || it.event.startsWith('layouter'),
};

type SetFilters = (change: StreamFilters, options?: { keep?: boolean }) => void;

/** The names of picked rows; shift picks a range. */
function usePicked(pages: PagedRows<StreamEntity>) {
  const [picked, set] = useState<ReadonlySet<string>>(new Set());
  const anchor = useRef(-1);
  const select = (row: StreamEntity, index: number, isRange: boolean) => {
    const next = new Set(picked);
    if (isRange && anchor.current >= 0) {
      const [first, last] = [Math.min(index, anchor.current), Math.max(index, anchor.current)];
      for (let at = first; at <= last; at += 1) {
        const name = pages.row(at)?.name;
        if (name) next.add(name);
      }
    } else if (!next.delete(row.name)) {
      next.add(row.name);
    }
    anchor.current = index;
    set(next);
  };
  return { picked, select, clear: () => set(new Set()) };
}

/** The mark of a health that is trouble; the name has a mark of how the stream runs. */
function HealthMark({ of }: { of?: Health }) {
  if (!of || of === 'operational' || of === 'disabled') return null;
  return <Mark of={of} label={t(`status.${of}`)} />;
}

function columnsFor(isNarrow: boolean): Column<StreamEntity>[] {
  return [
    NAME,
    {
      id: 'title',
      head: t('col.title'),
      class: 'hide-m',
      cell: (stream) => <Given text={stream.title} />,
    },
    {
      id: 'status',
      head: t('col.status'),
      class: 'hide-m',
      cell: (stream) => (
        <span class={stream.stats?.status === 'error' ? 'bad' : 'muted'}>
          <HealthMark of={stream.health} /> {runWord(stream)}
        </span>
      ),
    },
    {
      id: 'where',
      head: t('col.where'),
      sort: 'layout.ingest',
      cell: ({ layout }) =>
        isNarrow ? (
          <span class="name muted" translate={false}>
            {layout?.ingest ? shortHost(layout.ingest) : '–'}
          </span>
        ) : (
          <StreamerLink hostname={layout?.ingest} />
        ),
    },
    BITRATE,
    VIEWERS,
    {
      id: 'labels',
      head: t('col.labels'),
      class: 'hide-m',
      cell: (stream) => <Labels labels={stream.labels} most={2} />,
    },
    {
      id: 'changed',
      head: t('col.changed'),
      sort: 'updated_at',
      down: true,
      class: 'num hide-m',
      cell: (stream) => <Time at={stream.updated_at} />,
    },
  ];
}

/** The labels of streams, the most frequent values of each, as they are typed. */
const LABELS = url('/facets', { of: 'streams', fields: 'labels', values: 20 });
const LABELS_OFFERED = 200;

function LabelFilter({ label = '', set }: { label?: string; set: SetFilters }) {
  // Read when it is used: in a large cluster labels take a count of all streams.
  const [isUsed, setUsed] = useState(false);
  const labels = useQuery<Facets>(isUsed ? LABELS : null);
  const offered = (labels.data?.facets ?? []).flatMap(({ field, values }) =>
    values.map(({ value }) => `${field.replace('labels.', '')}=${value}`),
  );
  return (
    <Typed
      label={t('filter.label')}
      value={label}
      onType={(next) => set({ label: next }, { keep: true })}
      of={offered.slice(0, LABELS_OFFERED)}
      onFocus={() => setUsed(true)}
    />
  );
}

function Filters({ query, set }: { query: StreamFilters; set: SetFilters }) {
  const yesNo: [string, string][] = [
    ['yes', t('filter.yes')],
    ['no', t('filter.no')],
  ];
  const statuses = (['running', 'waiting', 'error', 'none'] as const).map(
    (status): [string, string] => [status, t(`run.${status}`)],
  );
  const any = t('filter.any');
  return (
    <div class="chips">
      <Choice
        label={t('filter.status')}
        value={query.status}
        none={any}
        of={statuses}
        onPick={(status) => set({ status })}
      />
      <Choice
        label={t('filter.enabled')}
        value={query.enabled}
        none={any}
        of={yesNo}
        onPick={(enabled) => set({ enabled })}
      />
      <Choice
        label={t('filter.placed')}
        value={query.placed}
        none={any}
        of={yesNo}
        onPick={(placed) => set({ placed })}
      />
      <Choice
        label={t('filter.health')}
        value={query.health}
        none={any}
        of={HEALTHS.map((health): [string, string] => [health, t(`status.${health}`)])}
        onPick={(health) => set({ health })}
      />
      <LabelFilter label={query.label} set={set} />
      {query.streamer && (
        <button class="chip" aria-pressed={true} onClick={() => set({ streamer: '' })}>
          {t('filter.streamer')}: {shortHost(query.streamer)} <span aria-hidden="true">✕</span>
          <span class="hidden">{t('filter.remove')}</span>
        </button>
      )}
      {FILTERS.some((name) => query[name]) && (
        <a class="button quiet" href={href('streams')}>
          {t('filter.clear')}
        </a>
      )}
    </div>
  );
}

export function Streams({ route, me }: ScreenProps) {
  const filters: StreamFilters = route.query;
  // A picked filter is a step of its own for Back; typing replaces the address.
  const set: SetFilters = (change, { keep = false } = {}) =>
    go(href('streams', [], { ...filters, ...change }), { replace: keep });
  const query = useMemo(() => streamsQuery(filters), [route.query]);
  const pages = usePages<'streams', StreamEntity>('/streams', query, 'streams');
  const { seen, isPointed } = useFreshRows(pages, IN_VIEW);
  const { picked, select, clear } = usePicked(pages);
  const isNarrow = useNarrow();
  const columns = useMemo(() => columnsFor(isNarrow), [isNarrow]);
  const isFiltered = FILTERS.some((name) => filters[name]);
  // All that match, instead of picked ones; of one set of filters only.
  const [allOf, setAllOf] = useState<string | null>(null);
  const isAll = allOf === pages.key;
  const clearAll = () => {
    setAllOf(null);
    clear();
  };
  const done = () => {
    clearAll();
    pages.again();
  };
  return (
    <>
      <div class="bar-top">
        <h1>
          {t('streams.title')} <small>{f.count(pages.total)}</small>
        </h1>
        <Typed
          label={t('streams.search')}
          value={filters.q ?? ''}
          onType={(q) => set({ q }, { keep: true })}
        />
        {isAll ? (
          <BulkMatching
            query={matchingQuery(filters)}
            total={pages.total}
            me={me}
            onDone={done}
            onClear={clearAll}
          />
        ) : picked.size > 0 ? (
          <Bulk
            names={[...picked]}
            me={me}
            total={pages.total}
            onAll={() => setAllOf(pages.key)}
            onDone={done}
            onClear={clear}
          />
        ) : (
          <Filters query={filters} set={set} />
        )}
      </div>
      <Failure error={pages.error} again={pages.again} />
      <div
        class="fill"
        onPointerEnter={() => (isPointed.current = true)}
        onPointerLeave={() => (isPointed.current = false)}
      >
        <Table
          kind="streams"
          label={t('streams.title')}
          columns={columns}
          source={pages}
          narrowHeight={54}
          keyOf={(stream) => stream.name}
          onOpen={(stream) => go(href('streams', [stream.name]))}
          selected={picked}
          onSelect={select}
          sort={filters.sort ?? ''}
          onSort={(sort) => set({ sort }, { keep: true })}
          isBusy={pages.isLoading && pages.length === 0}
          empty={
            isFiltered ? <NoMatch screen="streams">{t('streams.empty')}</NoMatch> : <FirstStream />
          }
          onVisible={(first, last) => (seen.current = [first, last])}
        />
      </div>
      <p class="foot muted" role="status">
        {pages.total !== null && t('streams.loaded', { n: pages.length, total: pages.total })}
      </p>
    </>
  );
}
